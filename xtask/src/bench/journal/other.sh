# A unit beside a flood: it logs a line to its standard output and one to /dev/log, has journald write out all that it got, and
# notes how many microseconds the first took and both, until it is told to end.
while [ ! -e "$1.stop" ]; do
    n=$((n + 1))
    begin=$EPOCHREALTIME
    echo "line $n beside the flood"
    logger -t other "line $n beside the flood"
    logged=$EPOCHREALTIME
    journalctl --sync
    end=$EPOCHREALTIME
    echo $((${logged/./} - ${begin/./})) $((${end/./} - ${begin/./})) >>"$1"
done
