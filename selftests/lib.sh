# SPDX-License-Identifier: GPL-2.0
# lib.sh - what the tests in selftests/*.test share; source it first, call "finish" last.
#
# A test sets up what it needs (setup does all of it: module, export, server, mount), says "check WHAT
# COMMAND..." for each thing that has to hold, runs C programs with "program", and ends with "finish",
# which unmounts, unloads the module and fails the test when one of them does not work.
#
# selftests/run sets WFS_TOP, WFS_BUILD and WFS_OUT.  WFS_SLOW=N multiplies the time limits of within, wait_for and
# program (and, by wfs_test.h, of C programs); limits of a test's own go through "slow".  With WFS_SHORT=1 loads are
# to be short: see "reps".  WFS_MOVER=NAME is the --mover of every server.  With WFS_TEST_DIR set, setup mounts nothing and the
# test runs in that directory: so is a test itself tested.

set -u
shopt -s nullglob

WFS_TOP=${WFS_TOP:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
WFS_BUILD=${WFS_BUILD:-$WFS_TOP/build}
WFS_OUT=${WFS_OUT:-$(mktemp -d)}
WFS_KO=${WFS_KO:-$WFS_TOP/wfs.ko}
WFSD=$WFS_BUILD/server/wfsd
if [ -n "${WFS_MOVER:-}" ]; then
	printf '#!/bin/sh\nexec %s --mover %s "$@"\n' "$WFSD" "$WFS_MOVER" >"$WFS_OUT/wfsd-$WFS_MOVER"
	WFSD=$WFS_OUT/wfsd-$WFS_MOVER
	chmod +x "$WFSD"
fi
PROGS=${WFS_PROGS:-$WFS_BUILD/selftests}
NAME=$(basename "$0" .test)
LOCAL=${WFS_TEST_DIR:-}

MNT=/mnt/wfs		# the first mount
EXPORT=			# the exported directory
PORT=9800		# the next server's port, then the last one's
WFS_SERVER_PID=
SERVER_ARGS=()
LAST_OUTPUT=$WFS_OUT/$NAME.last

tap_count=0
tap_failed=0
pids=()			# of what runs in the background
mounts=()		# to be undone, last first
loops=()
port_next=9800
server_logs=0
loads=0
load=
server_log=
started=$SECONDS
module_loaded=
log_checked=

# slow SECONDS: a time limit, on a kernel that is WFS_SLOW times slower; fractions are for sleep
slow()
{
	case $1 in
	*.*) awk "BEGIN { print $1 * ${WFS_SLOW:-1} }" ;;
	*) echo $(($1 * ${WFS_SLOW:-1})) ;;
	esac
}

# reps N: how often to repeat something: N times, or a tenth where loads are to be short
reps()
{
	if [ "${WFS_SHORT:-}" = 1 ] && [ "$1" -ge 10 ]; then echo $(($1 / 10)); else echo "$1"; fi
}

# ---- TAP ----

ok()
{
	echo "ok $((++tap_count)) $*"
}

not_ok()
{
	echo "not ok $((++tap_count)) $*"
	tap_failed=$((tap_failed + 1))
}

comment()
{
	sed 's/^/# /' <<<"$*"
}

# result STATUS WHAT: a test that has been made
result()
{
	local status=$1
	shift
	if [ "$status" = 0 ]; then ok "$*"; else not_ok "$*"; fi
}

# check WHAT COMMAND...: ok when the command succeeds.  Its output is in $LAST_OUTPUT, shown when it failed.
check()
{
	local what=$1 status start=$SECONDS
	shift
	"$@" >"$LAST_OUTPUT" 2>&1
	status=$?
	result $status "$what"
	[ $((SECONDS - start)) -lt 3 ] || echo "# that took $((SECONDS - start)) s"
	if [ $status != 0 ]; then
		echo "# exit code $status: $*"
		tail -n 30 "$LAST_OUTPUT" | sed 's/^/# /'
	fi
	return $status
}

# check_fails WHAT COMMAND...: ok when the command ends by itself and not with 0
check_fails()
{
	local what=$1 status
	shift
	"$@" >"$LAST_OUTPUT" 2>&1
	status=$?
	[ $status -gt 0 ] && [ $status -lt 124 ]
	result $? "$what"
	if [ $status = 0 ] || [ $status -ge 124 ]; then
		echo "# exit code $status: $*"
		tail -n 30 "$LAST_OUTPUT" | sed 's/^/# /'
		return 1
	fi
}

# says WHAT REGEX: ok when the output of the last check has the extended regular expression
says()
{
	local what=$1 regex=$2
	if grep -Eqi -- "$regex" "$LAST_OUTPUT"; then
		ok "$what"
	else
		not_ok "$what"
		echo "# nothing like '$regex' in:"
		tail -n 10 "$LAST_OUTPUT" | sed 's/^/# /'
		return 1
	fi
}

# equal WHAT WANTED GOT
equal()
{
	if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1: '$3' instead of '$2'"; return 1; fi
}

# between LOW HIGH NUMBER: a condition for check
between()
{
	[ "$3" -ge "$1" ] && [ "$3" -le "$2" ] || { echo "$3 is not from $1 to $2"; return 1; }
}

# die WHAT: the test can't go on
die()
{
	not_ok "$*"
	finish
}

# need PROGRAM...: a tool that is missing is a failure that names it
need()
{
	local tool
	for tool; do
		type -P "$tool" >/dev/null || die "$tool is not installed (tools/setup)"
	done
}

# program [-t SECONDS] COMMAND...: run a program that speaks TAP, make its results ours
program()
{
	local limit=300 log line planned='' seen=0 status start=$SECONDS what
	if [ "$1" = -t ]; then
		limit=$2
		shift 2
	fi
	what=$(basename "$1")
	[ -x "$1" ] || { not_ok "$1 is not there (make -C selftests)"; return 1; }
	log=$WFS_OUT/$NAME.$what.log
	timeout -k 15 "$(slow "$limit")" "$@" >"$log" 2>&1
	status=$?
	while IFS= read -r line; do
		case $line in
		"ok "*"# SKIP"*)
			seen=$((seen + 1))
			if [ -n "$LOCAL" ]; then
				ok "$what: ${line#ok * }"
			else
				not_ok "$what: ${line#ok * } (nothing may be skipped here)"
			fi
			;;
		"ok "*)
			seen=$((seen + 1))
			line=${line#ok }
			ok "$what: ${line#* }"
			;;
		"not ok "*)
			seen=$((seen + 1))
			line=${line#not ok }
			not_ok "$what: ${line#* }"
			;;
		1..*) planned=${line#1..} ;;
		"TAP version"* | *"RUN  "* | "#            OK "*) ;;
		"#"*) echo "$line" ;;
		*) echo "# $line" ;;
		esac
	done <"$log"
	if [ "$seen" != "$planned" ] || [ $status -ge 124 ]; then
		not_ok "$what: ended early with exit code $status after $seen of ${planned:-?} tests"
	fi
	echo "# $what took $((SECONDS - start)) s"
	return $status
}

# wait_for SECONDS COMMAND...: poll until the command succeeds
wait_for()
{
	local until=$((SECONDS + $(slow "$1")))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $until ] || return 1
		sleep 0.05
	done
}

# within SECONDS COMMAND...: the command's exit code, or 124 when it took longer
within()
{
	timeout -k 5 "$(slow "$1")" "${@:2}"
}

# ---- background processes ----

# background COMMAND...: sets $!, is killed at the end
background()
{
	"$@" &
	pids+=($!)
}

running()
{
	kill -0 "$1" 2>/dev/null
}

# end_process PID [SIGNAL]: ends a process that this test started and waits for its end
end_process()
{
	local pid=$1 signal=${2:-TERM} p keep=()
	kill -"$signal" "$pid" 2>/dev/null
	[ "$signal" = KILL ] || kill -CONT "$pid" 2>/dev/null
	if ! wait_for 20 not running_child "$pid"; then
		kill -KILL "$pid" 2>/dev/null
	fi
	wait "$pid" 2>/dev/null
	for p in "${pids[@]}"; do
		[ "$p" = "$pid" ] || keep+=("$p")
	done
	pids=("${keep[@]}")
}

not() { ! "$@"; }

# A child that has ended but was not waited for is a zombie, not running.
running_child()
{
	local state
	state=$(sed 's/.*) //;s/ .*//' "/proc/$1/stat" 2>/dev/null) && [ "$state" != Z ]
}

# ---- the guest ----

# The module is loaded in the guest only.
in_guest()
{
	[ "$(findmnt -no FSTYPE /)" = overlay ] && [ "$(hostname)" = wfs-guest ]
}

# Is this the kernel of tools/debug-kernel?
debug_kernel()
{
	[ -e /sys/kernel/debug/failslab ]
}

load_module()
{
	[ -z "$module_loaded" ] || return 0
	in_guest || die "this is not the guest: use tools/vm"
	[ -e "$WFS_KO" ] || die "$WFS_KO is not there"
	[ ! -x "$WFS_BUILD/tools/mount.wfs" ] || ln -sfn "$WFS_BUILD/tools/mount.wfs" /sbin/mount.wfs
	echo "wfs-test $NAME begins" >/dev/kmsg
	insmod "$WFS_KO" || die "insmod"
	module_loaded=yes
}

unload_module()
{
	rmmod wfs && module_loaded=
}

# ---- exports ----

# make_export FSTYPE [MOUNT OPTIONS]: a new file system for the server, its directory in $EXPORT.
# tmpfs, or a loop device on a sparse file.
make_export()
{
	local type=$1 opts=${2:-} n=${#mounts[@]} size=1G image loop
	EXPORT=/srv/$NAME.$n
	mkdir -p "$EXPORT"
	if [ "$type" = tmpfs ]; then
		mount -t tmpfs -o "size=2G,nr_inodes=400k${opts:+,$opts}" tmpfs "$EXPORT" ||
			die "mount tmpfs for the export"
	else
		need "mkfs.$type" losetup
		modprobe -q loop
		modprobe -q "$type"
		image=/tmp/$NAME.$n.img
		truncate -s "${EXPORT_SIZE:-$size}" "$image"
		case $type in
		ext4) mkfs.ext4 -q -F -O ^has_journal "$image" ;;
		*) "mkfs.$type" -q "$image" ;;
		esac >"$WFS_OUT/$NAME.mkfs.log" 2>&1 || die "mkfs.$type"
		loop=$(losetup --find --show "$image") || die "losetup"
		loops+=("$loop")
		mount -t "$type" ${opts:+-o "$opts"} "$loop" "$EXPORT" || die "mount $type for the export"
	fi
	mounts+=("$EXPORT")
	chmod 755 "$EXPORT"
}

# ---- the server ----

listening()
{
	ss -Hltn "sport = :$1" | grep -q .
}

# start_server DIR [ARGS]: on a port of its own ($PORT, WFS_SERVER_PID), returns when it listens
start_server()
{
	PORT=$((port_next++))
	SERVER_ARGS=(--export "$1" --listen "${LISTEN:-127.0.0.1}:$PORT" "${@:2}")
	start_server_again
}

# The same once more: same directory, arguments and port.
start_server_again()
{
	need ss
	[ -x "$WFSD" ] || die "$WFSD is not there"
	server_log=$WFS_OUT/$NAME.wfsd.$((++server_logs)).log
	# without our directory and descriptors, which may be on the mount
	(cd / && exec "$WFSD" "${SERVER_ARGS[@]}" 2>"$server_log" 8>&- 9>&-) &
	WFS_SERVER_PID=$!
	export WFS_SERVER_PID
	pids+=($WFS_SERVER_PID)
	wait_for 20 listening_or_dead && listening $PORT && return
	comment "wfsd ${SERVER_ARGS[*]}:"
	sed 's/^/# /' "$server_log"
	die "wfsd does not start"
}

listening_or_dead()
{
	! running_child "$WFS_SERVER_PID" || listening $PORT
}

# cut_connections [PORT]: reset the established connections to a server of this namespace
cut_connections()
{
	if debug_kernel; then		# which has no INET_DIAG_DESTROY for ss
		python3 "$WFS_TOP/selftests/cut.py" "${1:-$PORT}"
	else
		ss -K state established "dport = :${1:-$PORT}" >/dev/null
	fi
}

stop_server()
{
	end_process "${1:-$WFS_SERVER_PID}" TERM
}

kill_server()
{
	end_process "${1:-$WFS_SERVER_PID}" KILL
}

# ---- mounts ----

# wfs_mount [-o OPTIONS] [-p PORT] [-h HOST] [-s SUBDIR] [DIR]
wfs_mount()
{
	local OPTIND opt opts= port=$PORT host=127.0.0.1 sub= dir
	while getopts o:p:h:s: opt; do
		case $opt in
		o) opts=,$OPTARG ;;
		p) port=$OPTARG ;;
		h) host=$OPTARG ;;
		s) sub=$OPTARG ;;
		*) return 1 ;;
		esac
	done
	shift $((OPTIND - 1))
	dir=${1:-$MNT}
	mkdir -p "$dir"
	within 60 mount -t wfs "$host:/$sub" "$dir" -o "port=$port$opts" || return
	mounts+=("$dir")
}

wfs_umount()
{
	local dir=${1:-$MNT} m keep=()
	within 60 umount "$dir" || return
	for m in "${mounts[@]}"; do
		[ "$m" = "$dir" ] || keep+=("$m")
	done
	mounts=("${keep[@]}")
}

# The debugfs directory of the only mount.
stats_dir()
{
	local dirs=(/sys/kernel/debug/wfs/*/)
	echo "${dirs[-1]:-/none}"
}

# requests OP: how many the mount has sent
requests()
{
	awk -v op="$1" '$1 == op { n = $2 } END { print n + 0 }' "$(stats_dir)/ops"
}

# conn_sum COLUMN: of all its connections
conn_sum()
{
	awk -v name="$1" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) col = i; next }
		{ s += $col } END { print s + 0 }' "$(stats_dir)/conns"
}

# setup [-f FSTYPE] [-o MOUNT OPTIONS] [SERVER ARGS]: everything, and what the C programs read
setup()
{
	local OPTIND opt type=tmpfs opts=
	while getopts f:o: opt; do
		case $opt in
		f) type=$OPTARG ;;
		o) opts=$OPTARG ;;
		*) die "setup $*" ;;
		esac
	done
	shift $((OPTIND - 1))
	if [ -n "$LOCAL" ]; then
		MNT=$LOCAL EXPORT=$LOCAL
		return
	fi
	load_module
	make_export "$type"
	start_server "$EXPORT" --no-root-squash "$@"
	wfs_mount ${opts:+-o "$opts"} || die "mount"
	export WFS_TEST_DIR=$MNT WFS_EXPORT_DIR=$EXPORT WFS_STATS=/sys/kernel/debug/wfs
	export WFS_REMOUNT="umount $MNT && mount -t wfs 127.0.0.1:/ $MNT -o port=$PORT${opts:+,$opts}"
}

# remount: unmount and mount again as setup did
remount()
{
	if [ -n "$LOCAL" ]; then
		sync
		echo 3 >/proc/sys/vm/drop_caches
	else
		sh -c "$WFS_REMOUNT"
	fi
}

# ---- a load that verifies all that it does (load.c) ----

# load_seconds SHORT LONG: how long it runs in make check, and in make soak (WFS_SOAK=1)
load_seconds()
{
	if [ -n "${WFS_SOAK:-}" ]; then echo "$2"; else echo "$1"; fi
}

# start_load [OPTIONS] DIR...: in the background, its process in $load
start_load()
{
	local seed=$((SRANDOM % 1000000))
	load_output=$WFS_OUT/$NAME.load.$((++loads))
	background "$PROGS/load" -s $seed "$@" >"$load_output" 2>&1
	load=$!
	comment "load -s $seed $*"
}

# end_load WHAT: ok when it has run to its end and found nothing wrong
end_load()
{
	local status
	wait "$load"
	status=$?
	result $status "$1"
	sed 's/^/# /' "$load_output"
	return $status
}

# verify_load WHAT MODEL DIR...: a tree that load -k -m MODEL has left
verify_load()
{
	check "$1" within 250 "$PROGS/load" -V -m "$2" "${@:3}"
}

# ---- the end ----

bad_log='BUG:|WARNING:|Oops:|general protection|blocked for more than|refcount_t:|Objects remaining|still has objects|VFS: Busy inodes|list_(add|del) corruption|Bad page|scheduling while atomic|sleeping function|UBSAN|unreferenced object|circular locking'

# What the kernel has logged since load_module.
kernel_log()
{
	dmesg | awk -v mark="wfs-test $NAME begins" 'index($0, mark) { buf = "" } { buf = buf $0 "\n" } END { printf "%s", buf }'
}

undo_mounts()
{
	local i status=0
	for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do
		grep -q " ${mounts[i]} " /proc/mounts || continue	# mountpoint(1) would ask a dead server
		if ! within 60 umount "${mounts[i]}" >"$WFS_OUT/$NAME.umount" 2>&1; then
			status=1
			sed 's/^/# /' "$WFS_OUT/$NAME.umount"
			umount -f "${mounts[i]}" 2>/dev/null || umount -l "${mounts[i]}"
		fi
	done
	mounts=()
	return $status
}

# teardown: unmounts all, ends our processes, unloads the module
teardown()
{
	local pid loop
	[ -z "$module_loaded" ] || check "all is unmounted" undo_wfs_mounts
	for pid in "${pids[@]}"; do
		end_process "$pid" TERM
	done
	undo_mounts
	for loop in "${loops[@]}"; do
		losetup -d "$loop"
	done
	loops=()
	if [ -n "$module_loaded" ]; then
		check "the module unloads" unload_module
		check "no slab cache of the module is left" no_slab
		check "the kernel has nothing to complain about" quiet_log
	fi
}

# The wfs mounts go before their servers.
undo_wfs_mounts()
{
	local all=("${mounts[@]}") m rest=() status
	mounts=()
	for m in "${all[@]}"; do
		if [ "$(findmnt -no FSTYPE "$m" | tail -n 1)" = wfs ]; then mounts+=("$m"); else rest+=("$m"); fi
	done
	undo_mounts
	status=$?
	mounts=("${rest[@]}")
	return $status
}

no_slab()
{
	! grep '^wfs' /proc/slabinfo
}

quiet_log()
{
	! kernel_log | grep -E "$bad_log"
}

finish()
{
	trap - EXIT
	teardown
	echo "1..$tap_count"
	echo "# $NAME: $((tap_count - tap_failed)) of $tap_count passed in $((SECONDS - started)) s"
	exit $((tap_failed > 0))
}

died()
{
	not_ok "the test ended before its end"
	finish
}

trap died EXIT
trap : PIPE		# or an echo to somebody who has gone would end all this without a word
echo "TAP version 13"
