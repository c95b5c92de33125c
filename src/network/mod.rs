//! Managed bridges: addresses, DHCP and DNS by dnsmasq, NAT by nftables, leases.
