/* What a program gets of the disk and the processor: run inside of a container and outside, the same static binary (bench/inside.py).
 *
 *     load FILE MIB
 *
 * prints "name value" lines: MB/s (10^6 bytes) for the sequential ones, operations a second for the random ones, milliseconds for loops.
 * FILE is made, filled with MIB mebibytes and removed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, PAGE = 4096, RANDOM_MS = 1000, COPY_MIB = 512 };

static uint64_t state = 88172645463325252ull;

static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static void must(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static void tell(const char *name, double value)
{
    printf("%s %.1f\n", name, value);
    fflush(stdout);
}

static double mb_per_s(long mib, double ms) { return mib * 1.048576 / (ms / 1e3); }

static void write_all(const char *path, long mib, unsigned char *block)
{
    int file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    must(file >= 0, path);
    double began = now_ms();
    for (long done = 0; done < mib; done++)
        must(write(file, block, BLOCK) == BLOCK, "write");
    must(fsync(file) == 0, "fsync");
    tell("sequential-write", mb_per_s(mib, now_ms() - began));
    close(file);
}

static void read_all(const char *path, long mib, unsigned char *block, const char *name, int forget)
{
    int file = open(path, O_RDONLY);
    must(file >= 0, path);
    if (forget)
        posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    double began = now_ms();
    for (long done = 0; done < mib; done++)
        must(read(file, block, BLOCK) == BLOCK, "read");
    tell(name, mb_per_s(mib, now_ms() - began));
    close(file);
}

static void at_random(const char *path, long mib, unsigned char *block, const char *name, int writing)
{
    int file = open(path, (writing ? O_WRONLY : O_RDONLY) | O_DIRECT);
    must(file >= 0, "open with O_DIRECT");
    long count = 0;
    double began = now_ms(), took;
    do {
        off_t place = (off_t)(next_random() % (uint64_t)(mib * (BLOCK / PAGE))) * PAGE;
        ssize_t moved = writing ? pwrite(file, block, PAGE, place) : pread(file, block, PAGE, place);
        must(moved == PAGE, name);
        count++;
    } while ((took = now_ms() - began) < RANDOM_MS);
    if (writing)
        must(fdatasync(file) == 0, "fdatasync");
    tell(name, count / ((now_ms() - began) / 1e3));
    close(file);
}

int main(int argc, char **argv)
{
    long mib = argc == 3 ? atol(argv[2]) : 0;
    if (mib < 1) {
        fprintf(stderr, "usage: load FILE MIB\n");
        return 2;
    }
    unsigned char *block = aligned_alloc(PAGE, BLOCK), *other = malloc(BLOCK);
    must(block && other, "memory");
    for (size_t i = 0; i < BLOCK; i += 8)
        memcpy(block + i, &(uint64_t){next_random()}, 8);

    write_all(argv[1], mib, block);
    read_all(argv[1], mib, block, "sequential-read", 1);
    read_all(argv[1], mib, block, "sequential-read-again", 0);
    at_random(argv[1], mib, block, "random-read-4k", 0);
    at_random(argv[1], mib, block, "random-write-4k", 1);
    unlink(argv[1]);

    double began = now_ms();
    uint64_t sum = 0;
    for (long i = 0; i < 100000000; i++)
        sum += next_random() >> 60;
    tell("integer-loop", now_ms() - began);

    began = now_ms();
    double value = 1.0 + (double)(sum & 1);
    for (long i = 0; i < 50000000; i++)
        value = value * 1.000000001 + 1e-9;
    tell("floating-point-loop", now_ms() - began);

    began = now_ms();
    for (int i = 0; i < COPY_MIB; i++) {
        memcpy(other, block, BLOCK);
        block[i] = other[BLOCK - 1 - i];
    }
    tell("memory-copy", mb_per_s(COPY_MIB, now_ms() - began));
    fprintf(stderr, "%g\n", value); /* or the loop would not be there */
    return 0;
}
