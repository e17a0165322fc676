# Writes one unit's part of the corpus: "N-COUNT". Units 1 to 4 send native datagrams with fields of their own,
# 5 to 8 write lines to stdout. 55 % access lines, 40 % key=value, 3 % tiny, 2 % traces of 15 lines (over 512 bytes, so journald
# compresses them; native only). "live" writes some 190 lines a second for two seconds.
use strict;
use warnings;
use Socket;

$| = 1;
if ($ARGV[0] eq 'live') {
    for my $n (1 .. 400) {
        print "live line $n\n";
        select(undef, undef, undef, 0.005);
    }
    exit 0;
}
my ($unit, $count) = split /-/, $ARGV[0];
srand(1000 + $unit);
my $native = $unit <= 4;
if ($native) {
    socket(my $socket, AF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
    connect($socket, pack_sockaddr_un('/run/systemd/journal/socket')) or die "connect: $!";
    for my $n (1 .. $count) {
        my ($priority, $message) = line($n);
        my $value = $message =~ /\n/ ? "MESSAGE\n" . pack('Q<', length $message) . $message : "MESSAGE=$message";
        my $entry = "$value\nPRIORITY=$priority\nSYSLOG_IDENTIFIER=nat$unit\nREQUEST_ID=" . sprintf('%08x-%04x', $n, $unit)
            . "\nUSER_ID=" . ($n % 97) . "\nROUTE=/api/v1/thing" . ($n % 13) . "\nTENANT=tenant" . ($n % 7)
            . "\nMETHOD=" . ($n % 3 ? 'GET' : 'POST') . "\nSTATUS=" . ($n % 50 ? 200 : 500) . "\nDURATION_MS=" . int(rand(400)) . "\n";
        send($socket, $entry, 0) or die "send: $!";
    }
} else {
    $| = 0;
    for my $n (1 .. $count) {
        my ($priority, $message) = line($n);
        print "<$priority>$message\n";
    }
}

sub line {
    my ($n) = @_;
    my $kind = rand(100);
    my $priority = $n % 50 ? 6 : 3;
    return ($priority, sprintf('10.0.%d.%d - - "GET /api/v1/thing%d?page=%d HTTP/1.1" 200 %d "-" "client/1.%d"',
        rand(4), rand(250), rand(13), rand(900), rand(90000), rand(9))) if $kind < 55;
    return ($priority, sprintf('level=info component=worker%d job=%d took=%dms queue=%d result=ok',
        rand(8), $n, rand(2000), rand(64))) if $kind < 95;
    return ($priority, 'ok') if $kind < 98 || !$native;
    return (3, "panic: index out of range\n" . join("\n", map { "  at module$_.fn" . int(rand(50)) . " (source/module$_.c:" . int(rand(900)) . ')' } 1 .. 14));
}
