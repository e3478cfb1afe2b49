#!/bin/sh
# Boots a kernel under Aerostat, resizes the guest's memory while it runs, and runs one test in it.
#
#   boot-test.sh KERNEL INITRAMFS TEST
#
# KERNEL is a bzImage or vmlinux, INITRAMFS its initial file system (cpio, compressed or not), TEST
# the program or script that the guest shall run. The guest's init has three duties: to load the
# balloon's driver, to run /test, and to write /test's exit status to port 0xf4 (`debug-exit`); see
# resources/linux/guest-init. /test needs /bin/sh in the guest.
#
# In the environment, all optional:
#   AEROSTAT        the binary (default: aerostat in the path)
#   MEM             the guest's memory (default 512M)
#   BALLOON         bytes that the guest keeps while it is resized (default: half)
#   TIMEOUT         time for the whole run, as --timeout has it (default 60s)
#   RESIZE_TIMEOUT  seconds for one resize; the first includes the boot (default 30)
#
# The memory is resized before TEST begins: /test waits for a line on the console, which this
# script types once the guest has given memory and got it back.
#
# Exit status: 0 the test passed and both resizes were reached; 1 otherwise; 2 wrong usage, or
# something is missing; 130 and the like after a signal.
#
# Runs under any POSIX sh, busybox's too, and needs socat.
set -u

# Seconds that QMP has for an answer.
ANSWER_LIMIT=5
# Lines of the console that are shown when something failed.
CONSOLE_LINES=20
# What /test prints when it goes on: until then the line is typed again.
BEGINS='boot-test: the test begins'

die() {
    echo "boot-test: $1" >&2
    exit 2
}

check_tools() {
    for tool in socat mktemp mkfifo date wc sed grep tail tr; do
        command -v "$tool" >/dev/null ||
            die "$tool is missing: install it (Debian: apt-get install socat coreutils sed grep)"
    done
    command -v cpio >/dev/null || command -v busybox >/dev/null ||
        die "cpio is missing: install it (Debian: apt-get install cpio, or busybox)"
    command -v "$AEROSTAT" >/dev/null ||
        die "There is no program $AEROSTAT: put aerostat into the path, or its file's name into AEROSTAT"
}

check_files() {
    for file; do
        if ! [ -f "$file" ] || ! [ -r "$file" ]; then
            die "There is no readable file $file"
        fi
    done
}

check_number() {
    case $2 in
        '' | *[!0-9]* | 0?*) die "$1 is \"$2\", but has to be a number of $3" ;;
    esac
}

# Ends the machine and removes all files, however the script ends.
clean_up() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    fi
    rm -rf "$directory"
}

archive() {
    if command -v cpio >/dev/null; then
        cpio -o -H newc
    else
        busybox cpio -o -H newc
    fi
}

# INITRAMFS with the test behind it. Linux takes archives one after the other, each of which has
# to begin at a multiple of 4 bytes.
write_initramfs() {
    mkdir "$directory/added"
    cat >"$directory/added/test" <<END
#!/bin/sh
read -r line </dev/console
echo '$BEGINS'
exec /test-program </dev/null
END
    cp "$2" "$directory/added/test-program" &&
        chmod 755 "$directory/added/test" "$directory/added/test-program" &&
        cat "$1" >"$directory/initramfs" || return 1
    while [ $(($(wc -c <"$directory/initramfs") % 4)) -ne 0 ]; do
        printf '\0' >>"$directory/initramfs"
    done
    (cd "$directory/added" && printf '%s\n' test test-program | archive 2>/dev/null) \
        >>"$directory/initramfs"
}

start_machine() {
    # Open for both, so that neither side waits for the other, or finds an end.
    mkfifo "$directory/keys" && exec 3<>"$directory/keys" || return 1
    "$AEROSTAT" --kernel "$1" --initrd "$directory/initramfs" --mem "$MEM" \
        --qmp "$socket" --serial stdio --serial "file:$directory/console" \
        --log-file "$directory/log" --timeout "$TIMEOUT" --no-reboot --debug-exit \
        <&3 3>&- 2>"$directory/errors" &
    pid=$!
}

is_running() {
    kill -0 "$pid" 2>/dev/null
}

# Waits a little; fails when the machine has ended or the time $1 (of `date +%s`) has come.
pause_until() {
    # The shell learns of the machine's end while it waits for another program.
    sleep 0.2 2>/dev/null || sleep 1
    is_running && [ "$(date +%s)" -lt "$1" ]
}

# The answer to command $1 with arguments $2, on a connection of its own; fails without one.
qmp() {
    printf '%s\n' '{"execute": "qmp_capabilities"}' \
        "{\"execute\": \"$1\", \"arguments\": {$2}, \"id\": \"boot-test\"}" |
        socat -t "$ANSWER_LIMIT" - "UNIX-CONNECT:$socket" 2>/dev/null |
        grep '"id": *"boot-test"' | grep '"return"'
}

# The bytes that the guest has, as it last said.
balloon_actual() {
    qmp query-balloon '' | sed -n 's/.*"actual": *\([0-9][0-9]*\).*/\1/p'
}

# Waits until QMP answers; the balloon is empty then, and all memory the guest's.
wait_for_qmp() {
    deadline=$(($(date +%s) + RESIZE_TIMEOUT))
    until full=$(balloon_actual) && [ -n "$full" ]; do
        pause_until "$deadline" || return 1
    done
}

# Lets the guest have $1 bytes, and waits until it has them.
resize() {
    deadline=$(($(date +%s) + RESIZE_TIMEOUT))
    qmp balloon "\"value\": $1" >/dev/null || return 1
    until [ "$(balloon_actual)" = "$1" ]; do
        pause_until "$deadline" || return 1
    done
}

# Takes memory and gives it back; says in $memory how it went.
resize_twice() {
    memory='FAILED, QMP or its balloon did not answer'
    wait_for_qmp || return 1
    # Targets are whole pages.
    target=$(((${BALLOON:-$((full / 2))} + 4095) / 4096 * 4096))
    memory="FAILED, the guest did not get from $full to $target bytes"
    if resize "$target"; then
        memory="FAILED, the guest did not get from $target back to $full bytes"
        if resize "$full"; then
            memory="$full bytes, resized to $target bytes and back"
            return 0
        fi
    fi
    if is_running; then
        memory="$memory within $RESIZE_TIMEOUT s"
    else
        memory="$memory before the machine ended"
    fi
    return 1
}

# Types the line that /test waits for.
begin_test() {
    while is_running && ! grep -q "$BEGINS" "$directory/console" 2>/dev/null; do
        echo >&3
        sleep 1
    done
}

# Says what aerostat's exit status means for the test; fails when the test did not pass. Status 1
# is the value 0 of the test, (0 << 1) | 1, but also that of a machine that failed or panicked:
# only then is there a message.
judge() {
    if [ "$1" -eq 124 ]; then
        echo "FAILED, it did not end within $TIMEOUT"
    elif [ -s "$directory/errors" ]; then
        echo "FAILED, the machine ended with an error (status $1)"
    elif [ "$1" -eq 1 ]; then
        echo 'passed'
        return 0
    elif [ $(($1 % 2)) -eq 1 ]; then
        echo "FAILED with $((($1 - 1) / 2)) (the machine's status is $1)"
    else
        echo "FAILED, the guest ended before it reported (status $1)"
    fi
    return 1
}

# What there is to learn why: messages, which may end with the console's last lines, or these.
show_reasons() {
    cat "$directory/log" "$directory/errors"
    if [ -f "$directory/console" ] && ! grep -q '; it printed ' "$directory/errors"; then
        echo 'The console ends with:'
        { tail -n "$CONSOLE_LINES" "$directory/console" && echo; } |
            tr -d '\r\033' | sed '/^$/d; s/^/  | /'
    fi
} 2>/dev/null

[ $# -eq 3 ] || die 'Usage: boot-test.sh KERNEL INITRAMFS TEST'
: "${AEROSTAT:=aerostat}" "${MEM:=512M}" "${TIMEOUT:=60s}" "${RESIZE_TIMEOUT:=30}"
check_tools
check_files "$@"
check_number RESIZE_TIMEOUT "$RESIZE_TIMEOUT" seconds
check_number BALLOON "${BALLOON:-0}" bytes

pid=''
directory=$(mktemp -d) || die 'Cannot create a temporary directory'
socket=$directory/qmp.sock
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

begun=$(date +%s)
write_initramfs "$2" "$3" || die "Cannot write to $directory"
start_machine "$1" || die "Cannot write to $directory"
passed=yes
resize_twice || passed=no
begin_test
wait "$pid"
status=$?
pid=''
test=$(judge "$status") || passed=no

echo
[ "$passed" = yes ] || show_reasons
echo "boot-test: kernel: $1"
echo "boot-test: test: $test"
echo "boot-test: memory: $memory"
echo "boot-test: time: $(($(date +%s) - begun)) s"
[ "$passed" = yes ]
