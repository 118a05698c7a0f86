. /share/lib.sh
# The other installation: sockets that systemd makes. What is inherited must be
# what the configuration says, or the daemon does not start.
units=/etc/systemd/system
all="tokenvault-public.socket tokenvault-private.socket tokenvault-admin.socket"
start_sim
start_vault
systemctl stop tokenvault
mkdir -p $units/tokenvault.service.d
cp /share/repo/packaging/systemd/sockets.conf $units/tokenvault.service.d/
cp /share/repo/packaging/systemd/tokenvault-*.socket $units/
systemctl daemon-reload
said=$(cd $units && systemd-analyze verify tokenvault.service $all 2>&1) || fail "systemd-analyze verify: $said"
[ -z "$said" ] || fail "systemd-analyze verify has something to say: $said"
systemctl start $all
as_app /v1/health --max-time 20 >/dev/null || fail "the first caller does not start it"
within 20 sound || fail "not sound on inherited sockets: $(health)"
exchange iris
known iris
tokenvault status >/dev/null || fail "the admin socket"
stat -c '%n %U:%G %a' /run/tokenvault/*/api.sock
figure "inherited: $(journalctl -u tokenvault -b --no-pager -o cat | grep -c . ) journal lines, $(systemctl show -P NFileDescriptorStore tokenvault) stored descriptor, sockets $(ls /run/tokenvault | paste -sd' ')"

echo "== restarts refuse nobody"
refused=0 asked=0
for n in 1 2 3; do
  systemctl restart --no-block tokenvault
  for m in $(seq 20); do
    asked=$((asked + 1))
    as_app /v1/whoami -o /dev/null --max-time 20 || refused=$((refused + 1))
  done
  within 20 sound || fail "not sound after restart $n: $(health)"
done
[ "$refused" = 0 ] || fail "$refused of $asked callers were refused during 3 restarts"
figure "3 restarts on inherited sockets: $asked callers, none refused"

systemd-analyze security --no-pager --threshold=14 tokenvault.service >/tmp/score || fail "with sockets.conf: $(tail -n 1 /tmp/score)"

# wrong NAME WORDS SOCKET LINES…: with these lines in the unit of the socket the
# daemon must not start, and say the words; no caller gets an answer.
wrong() {
  local name=$1 words=$2 socket=$3; shift 3
  systemctl stop $all tokenvault 2>/dev/null || true
  mkdir -p "$units/tokenvault-$socket.socket.d"
  { echo "[Socket]"; printf '%s\n' "$@"; } >"$units/tokenvault-$socket.socket.d/wrong.conf"
  expect "$name" "$words"
  rm -r "$units"/tokenvault-*.socket.d
}
expect() { # NAME WORDS
  local since; since=$(date '+%F %T.%N')
  sleep 0.01
  systemctl daemon-reload
  systemctl reset-failed $all tokenvault 2>/dev/null || true
  systemctl start $all || fail "$1: systemd does not make the sockets"
  systemctl start --no-block tokenvault
  said() { journalctl -u tokenvault --since "$since" --no-pager -o cat; }
  refusal() { said | grep -qE "$2"; }
  within 10 refusal "" "$2" || fail "$1: it does not say \"$2\" but: $(said | tail -n 5)"
  [ "$(systemctl show -P SubState tokenvault)" != running ] || fail "$1: it runs"
  figure "refused: $1: $(said | grep -m1 -E "$2" | sed 's/^tokenvault: //' | head -c 160)"
  systemctl stop $all tokenvault 2>/dev/null || true
}

echo "== what disagrees"
mkdir -p $units/tokenvault-private.socket.d
printf '[Socket]\nFileDescriptorName=public\n' >$units/tokenvault-private.socket.d/wrong.conf
wrong "FileDescriptorName of public and private swapped" "systemd's socket is /run/tokenvault/" public "FileDescriptorName=private"
wrong "two sockets of one name" "two sockets with the name public" private "FileDescriptorName=public"
wrong "a name that the configuration has not" "systemd passed" public "FileDescriptorName=publik"
wrong "another path" "systemd's socket is /run/tokenvault/other" public "ListenStream=" "ListenStream=/run/tokenvault/other/api.sock"
wrong "mode 0666" "mode 0666" private "SocketMode=0666"
wrong "a smaller mode than configured" "mode 0600" private "SocketMode=0600"
wrong "another owner" "belongs to u(id|ser) 33" public "SocketUser=www-data"
wrong "another group" "group" private "SocketGroup=www-data"
wrong "a datagram socket" "datagram|stream" public "ListenStream=" "ListenDatagram=/run/tokenvault/public/api.sock"
wrong "a packet socket" "packet|stream" public "ListenStream=" "ListenSequentialPacket=/run/tokenvault/public/api.sock"
wrong "a TCP socket" "systemd's socket is 127.0.0.1|Unix" public "ListenStream=" "ListenStream=127.0.0.1:8099"
wrong "an abstract socket" "systemd's socket is @" public "ListenStream=" "ListenStream=@tokenvault"

echo "== a socket that does not listen, from something that is not systemd"
cat >/run/handover.pl <<'PERL'
use Socket; $^F = 10;
for my $n (0 .. 2) {
  my $dir = "/run/tokenvault/" . (qw(public private admin))[$n];
  mkdir "/run/tokenvault"; mkdir $dir; unlink "$dir/api.sock";
  socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die;
  bind($s, pack_sockaddr_un("$dir/api.sock")) or die "bind: $!";
  chown(0, scalar getgrnam("tokenvault-" . (qw(public private admin))[$n]), "$dir/api.sock");
  chmod(0660, "$dir/api.sock");
  listen($s, 5) if $n;
  syscall(33, fileno($s), 50 + $n);
  push @keep, $s;
}
syscall(33, 50 + $_, 3 + $_) for 0 .. 2;
$ENV{LISTEN_PID} = $$; $ENV{LISTEN_FDS} = 3; $ENV{LISTEN_FDNAMES} = "public:private:admin";
$ENV{CREDENTIALS_DIRECTORY} = "/run/handover";
exec qw(setpriv --reuid=tokenvault --regid=tokenvault --init-groups /usr/local/bin/tokenvault serve) or die;
PERL
mkdir -p /run/handover
cp /etc/tokenvault/role-id /etc/tokenvault/vault-secret-id /run/handover
chown -R tokenvault /run/handover
said=$(timeout 20 perl /run/handover.pl 2>&1) && fail "it serves on a socket that does not listen"
echo "$said" | grep -qi "listen" || fail "a socket that does not listen: $said"
figure "refused: a socket that does not listen: $(echo "$said" | grep -m1 -i "listen" | head -c 160)"
rm -rf /run/tokenvault /run/handover

echo "== and as it was"
rm -r $units/tokenvault.service.d $units/tokenvault-*.socket
systemctl daemon-reload
systemctl reset-failed tokenvault 2>/dev/null || true
systemctl start --no-block tokenvault
within 20 sound || fail "not sound on sockets of its own again: $(health)"
known iris
sync
