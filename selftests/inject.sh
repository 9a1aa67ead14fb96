# SPDX-License-Identifier: GPL-2.0
# inject.sh - memory that is not there, on the debug kernel; source it after lib.sh
#
# Only what the module asks for, or what others do in its name, is made to fail: it is the only module.

inject=(/sys/kernel/debug/failslab /sys/kernel/debug/fail_page_alloc)

[ -e "${inject[0]}" ] && [ -e /proc/self/fail-nth ] || die "this kernel has no fault injection"

for attr in "${inject[@]}"; do
	echo 0xffffffffc0000000 >"$attr/require-start"
	echo 0xffffffffff000000 >"$attr/require-end"
	echo 32 >"$attr/stacktrace-depth"
	echo N >"$attr/ignore-gfp-wait"
	echo 0 >"$attr/verbose"
	echo 0 >"$attr/probability"
	echo -1 >"$attr/times"
done
echo N >"${inject[1]}/ignore-gfp-highmem"
echo 0 >"${inject[1]}/min-order"

# percent N [marked]: of the allocations fail from now on, of all processes or of marked ones
percent()
{
	local attr filter=N
	[ "${2:-}" != marked ] || filter=Y
	for attr in "${inject[@]}"; do
		[ "$1" = 0 ] || echo 1000000 >"$attr/times"
		echo $filter >"$attr/task-filter"
		echo "$1" >"$attr/probability"
	done
}

# injected: how many have failed since the last percent that was not 0
injected()
{
	local attr sum=0
	for attr in "${inject[@]}"; do
		sum=$((sum + 1000000 - $(cat "$attr/times")))
	done
	echo $sum
}

# mark 0|1: the kernel's threads, and those that it makes from now on
mark()
{
	local pid
	for pid in 2 $(ps -o pid= --ppid 2); do
		echo "$1" >/proc/"$pid"/make-it-fail
	done
} 2>/dev/null

# a test that ends early must not leave it to those that follow
trap 'percent 0; died' EXIT
