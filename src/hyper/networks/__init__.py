"""Networks: the default bridge, taps, addresses, NAT and published ports."""
