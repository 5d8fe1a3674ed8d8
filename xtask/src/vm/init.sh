#!/usr/bin/busybox sh
# Process 1 of the VM. Runs the jobs of /etc/vm/jobs and says on the second serial line how each went; the lines it says
# itself begin with @@vm, all others are what a test says. What the kernel says goes to the first line.
export PATH=/usr/sbin:/usr/bin:/opt/busybox HOME=/root SOFTDPU_VM=1 SOFTDPU_INTEROP=/tmp/interop
/usr/bin/busybox mkdir -p /opt/busybox
/usr/bin/busybox --install -s /opt/busybox
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
# Nothing is mounted there: a checkout under /tmp has its tests in this very folder.
mkdir -p /tmp && chmod 1777 /tmp
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns /run/lock
exec </dev/null >/dev/ttyS0 2>&1

stty -F /dev/ttyS1 raw -echo
uptime() { cut -d' ' -f1 /proc/uptime; }
say() { echo "@@vm $*" >/dev/ttyS1; }

# What the kernel would not load by itself when it is asked for the first time; what it has built in is no error.
for module in virtio_net veth bridge tun esp4 esp6 xfrm_user xfrm_interface wireguard nf_tables; do
	modprobe -q "$module" || say lack "$module"
done
ip link set lo up
hostname vm
# Where the machine has no clock of its own.
[ "$(date +%s)" -gt "$(cat /etc/vm/now)" ] || date -s "@$(cat /etc/vm/now)" >/dev/null
dmesg -c >/dev/null

if grep -q vm.shell /proc/cmdline; then
	echo "softdpu's VM. The tests are in /etc/vm/jobs; poweroff -f ends it."
	exec setsid cttyhack sh -l
fi

say boot "$(uname -r)" "$(uptime)"
limit=$(cat /etc/vm/limit)
while read -r file test binary; do
	say begin "$file" "$test"
	start=$(uptime)
	timeout -s KILL "$limit" "$binary" --exact "$test" --nocapture --include-ignored --test-threads=2 </dev/null >/dev/ttyS1 2>&1
	code=$?
	# A test that does not end its last line must not swallow ours.
	echo >/dev/ttyS1
	if [ -d /tmp/interop ]; then
		cat /tmp/interop/* | while read -r line; do say row "$line"; done
		rm -r /tmp/interop
	fi
	dmesg -c | grep -E 'BUG:|WARNING:|Oops|general protection|refcount_t' | while read -r line; do say kernel "$line"; done
	for left in $(ip netns list | cut -d' ' -f1); do
		say left "$left"
		for pid in $(ip netns pids "$left"); do kill -9 "$pid"; done
		ip netns delete "$left"
	done
	say end "$code" "$start" "$(uptime)"
done </etc/vm/jobs
say done
poweroff -f
