#!/bin/sh
# Makes of a fresh root one that boots in an unprivileged container: mmdebstrap calls it with the root's path.
set -eu
cd "$1"
mkdir -p etc/systemd/network etc/systemd/system/multi-user.target.wants
cat > etc/systemd/network/eth0.network <<'NET'
[Match]
Name=eth0

[Network]
DHCP=yes
IPv6AcceptRA=yes

[DHCPv4]
ClientIdentifier=mac
NET
ln -sf /lib/systemd/system/systemd-networkd.service etc/systemd/system/multi-user.target.wants/
# What can do nothing inside an unprivileged container.
for unit in sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount systemd-modules-load.service \
	systemd-journald-audit.socket systemd-networkd-wait-online.service getty.target console-getty.service \
	apt-daily.timer apt-daily-upgrade.timer; do
	ln -sf /dev/null "etc/systemd/system/$unit"
done
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target
: > etc/machine-id
rm -f etc/hostname etc/ssh/ssh_host_* etc/resolv.conf
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n' > etc/hosts
# Name service without systemd-resolved: networkd's lease is enough for resolv.conf by this small unit.
ln -s /run/resolv.conf etc/resolv.conf
cat > etc/systemd/system/lease-resolv.service <<'UNIT'
[Unit]
Description=resolv.conf from the lease
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'sed -n "s/^DNS=/nameserver /p" /run/systemd/netif/state > /run/resolv.conf'
UNIT
cat > etc/systemd/system/lease-resolv.path <<'UNIT'
[Unit]
Description=watch the lease
[Path]
PathChanged=/run/systemd/netif/state
[Install]
WantedBy=multi-user.target
UNIT
ln -sf /etc/systemd/system/lease-resolv.path etc/systemd/system/multi-user.target.wants/
# Lists, caches and /tmp are mmdebstrap's to clean: there lies the configuration that keeps its apt away from the host's.
rm -f var/log/*.log
