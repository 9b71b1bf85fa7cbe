#!/bin/sh
# Builds the tuned guest kernel from Debian's linux-source package: `kernel/build.sh [KERNELS_FOLDER [WORK_FOLDER]]`.
#
# Leaves KERNELS_FOLDER (default /var/lib/hyper/kernels)/tuned/{vmlinux,config,release}, whole or not at all. Nothing is installed: the source package is
# downloaded and unpacked into the work folder (default: a temporary one, removed at the end; give one to build again quicker).
# Fails when an option of kernel/config was dropped by the kernel's configuration step. Needs: gcc make flex bison bc libelf-dev
# (Debian: apt-get install build-essential flex bison bc libelf-dev). JOBS (default: all processors) and NICE (default 10) are taken
# from the environment. 5 to 10 minutes on 2 cores.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
kernels=${1:-/var/lib/hyper/kernels}
jobs=${JOBS:-$(nproc)}
priority=${NICE:-10}
series=6.1
machine=$(uname -m)

fail() {
    echo "kernel/build.sh: $*" >&2
    exit 1
}

case $machine in
    x86_64) target=vmlinux image=vmlinux ;;
    aarch64) target=Image image=arch/arm64/boot/Image ;;
    *) fail "no configuration for $machine machines" ;;
esac
for tool in gcc make flex bison bc xz tar apt-get dpkg-deb; do
    command -v $tool >/dev/null || fail "$tool is missing; apt-get install build-essential flex bison bc xz-utils libelf-dev"
done

mkdir -p "$kernels"
kernels=$(cd "$kernels" && pwd)
if [ $# -ge 2 ]; then
    mkdir -p "$2"
    work=$(cd "$2" && pwd)
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi

# 1. the source
cd "$work"
if [ ! -d source ]; then
    rm -rf unpacked partial
    apt-get -o APT::Sandbox::User=root download linux-source-$series >download.log 2>&1 ||
        fail "linux-source-$series could not be downloaded (see $work/download.log); check the network, run apt-get update"
    dpkg-deb -x linux-source-${series}_*.deb unpacked
    mkdir partial
    tar -xf unpacked/usr/src/linux-source-$series.tar.xz -C partial --strip-components=1
    mv partial source
    rm -rf unpacked linux-source-${series}_*.deb
fi

# 2. the configuration: tinyconfig, ours over it, the rest at its default
fragment=$work/fragment
sed -n -e "s/^$machine://" -e '/^CONFIG_/p' -e '/^# CONFIG_.* is not set$/p' "$here/config" >"$fragment"
cd source
make -s tinyconfig >"$work/tinyconfig.log" 2>&1
scripts/kconfig/merge_config.sh -m .config "$fragment" >"$work/merge.log" 2>&1
make -s olddefconfig >>"$work/merge.log" 2>&1
dropped=$(sed 's/[[:space:]]*$//' "$fragment" | sort -u | while IFS= read -r line; do
    case $line in
        "# CONFIG_"*)
            name=${line#\# } name=${name%% *}
            grep -q "^$name=" .config && echo "$name (wanted off)" || true
            ;;
        *) grep -qxF "$line" .config || echo "${line%%=*}" ;;
    esac
done)
[ -z "$dropped" ] || fail "the kernel dropped these options of kernel/config (a dependency is missing?):" $dropped

# 3. the build
nice -n "$priority" make -s -j"$jobs" KBUILD_BUILD_USER=hyper KBUILD_BUILD_HOST=hyper KBUILD_BUILD_TIMESTAMP="$(date -u -d "@$(stat -c %Y Makefile)")" \
    LOCALVERSION=-hyper $target >"$work/build.log" 2>&1 ||
    fail "the build failed; the end of $work/build.log: $(tail -n 5 "$work/build.log")"

# 4. into its place
next=$(mktemp -d "$kernels/.tuned-XXXXXX")
chmod 755 "$next"
if [ $target = vmlinux ]; then
    objcopy --strip-all --keep-section=.notes "$image" "$next/vmlinux" 2>/dev/null || cp "$image" "$next/vmlinux"
else
    cp "$image" "$next/vmlinux"
fi
cp .config "$next/config"
make -s LOCALVERSION=-hyper kernelrelease >"$next/release"
sync -f "$next"
rm -rf "$kernels/tuned"
mv "$next" "$kernels/tuned"
echo "$kernels/tuned: $(cat "$kernels/tuned/release"), $(stat -c %s "$kernels/tuned/vmlinux") bytes"
