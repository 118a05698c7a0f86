. /share/lib.sh
# What the daemon sees of every kind of caller under a real systemd, and that only
# the one that a rule means gets anything.
start_sim
start_vault
systemctl start --no-block tokenvault
within 20 sound || fail "not sound: $(health)"
exchange jana
cat >>/etc/tokenvault/tokenvault.toml <<'TOML'
[[rule]]
name = "by-unit"
users = ["caller"]
units = ["shop.service", "app@*.service"]
apps = ["shop"]
grants = ["lookup"]
TOML
useradd -m -G tokenvault-public caller 2>/dev/null || true
uid=$(id -u caller) gid=$(getent group tokenvault-public | cut -d: -f3)
tokenvault reload || fail "reload with a rule that has units"

# Asks who it is, then for a user. Perl, because one caller is not dumpable, and
# that does not outlive an exec.
cat >/run/ask <<'PERL'
#!/usr/bin/perl
use IO::Socket::UNIX;
if ($ENV{HIDDEN}) { syscall(157, 4, 0, 0, 0, 0) == 0 or die "prctl: $!"; }
sub ask {
  my $s = IO::Socket::UNIX->new(Peer => "/run/tokenvault/public/api.sock") or die "connect: $!";
  print $s "GET $_[0] HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  local $/; my $r = <$s>; $r;
}
my ($who, $user) = (ask("/v1/whoami"), ask("/v1/users/jana"));
my ($body) = $who =~ /\r\n\r\n(.*)/s;
my ($uid) = $body =~ /"uid":(\d+)/; my ($unit) = $body =~ /"unit":"([^"]*)"/; my ($in) = $body =~ /"contained":(\w+)/;
my ($status) = $user =~ m{^HTTP/1.1 (\d+)};
print "uid=$uid unit=$unit contained=$in lookup=$status\n";
PERL
chmod 755 /run/ask

cases=0 wrongs=0
# is NAME EXPECTED ANSWER
is() {
  cases=$((cases + 1))
  if [ "$3" = "$2" ]; then figure "caller: $1: $3"; else
    echo "WRONG: $1: expected $2, seen: $3"; wrongs=$((wrongs + 1)); fi
}
in_unit() { systemd-run -q --wait --pipe --collect "$@" 2>&1 || true; } # SYSTEMD-RUN ARGUMENTS…
as="-p User=caller"
drop="setpriv --reuid=caller --regid=caller --init-groups"

echo "== units"
is "the unit of the rule" "uid=$uid unit=shop.service contained=false lookup=200" "$(in_unit --unit=shop $as /run/ask)"
is "the same, in a slice" "uid=$uid unit=shop.service contained=false lookup=200" "$(in_unit --unit=shop --slice=apps-eu.slice $as /run/ask)"
is "the same, not dumpable" "uid=$uid unit=shop.service contained=false lookup=200" "$(in_unit --unit=shop -E HIDDEN=1 $as /run/ask)"
is "the same, PrivateUsers=" "uid=$uid unit=shop.service contained=false lookup=200" "$(in_unit --unit=shop -p PrivateUsers=yes $as /run/ask)"
is "the same, hardened" "uid=$uid unit=shop.service contained=false lookup=200" "$(in_unit --unit=shop -p ProtectProc=invisible -p PrivateNetwork=yes -p ProtectSystem=strict $as /run/ask)"
is "ExecStartPre= of the unit" "uid=$uid unit=shop.service contained=false lookup=200" "$(in_unit --unit=shop $as -p "ExecStartPre=/run/ask" true)"
is "another user in the unit" "uid=33 unit=shop.service contained=false lookup=200" "$(in_unit --unit=shop -p User=www-data /run/ask)"
is "root in the unit" "uid=0 unit=shop.service contained=false lookup=403" "$(in_unit --unit=shop /run/ask)"
is "the user in another unit" "uid=$uid unit=bill-api.service contained=false lookup=403" "$(in_unit --unit=bill-api $as /run/ask)"
is "a unit with a longer name" "uid=$uid unit=shop.service.service contained=false lookup=403" "$(in_unit --unit=shop.service.service $as /run/ask)"
printf '[Service]\nType=oneshot\nUser=caller\nExecStart=/run/ask\nStandardOutput=file:/run/app.log\n' >/run/systemd/system/app@.service
systemctl daemon-reload
systemctl start app@eu-1 || fail "app@eu-1: $(systemctl status app@eu-1)"
is "a template" "uid=$uid unit=app@eu-1.service contained=false lookup=200" "$(cat /run/app.log)"
is "an escaped name" "uid=$uid unit=bill\\x2dapi.service contained=false lookup=403" "$(in_unit --unit='bill\x2dapi' $as /run/ask | sed 's/\\\\/\\/g')"
seen=$(in_unit --unit=dyn -p DynamicUser=yes -p SupplementaryGroups=tokenvault-public /run/ask)
is "DynamicUser=" "unit=dyn.service contained=false lookup=403" "${seen#uid=* }"
is "setpriv in a unit" "uid=$uid unit=shop.service contained=false lookup=200" "$(in_unit --unit=shop $drop /run/ask)"
is "su in a unit, no pam_systemd" "uid=$uid unit=bill-api.service contained=false lookup=403" "$(in_unit --unit=bill-api su caller -s /bin/sh -c /run/ask)"
systemctl start user-$uid.slice
is "a login session's scope" "uid=$uid unit=session-c1.scope contained=false lookup=403" "$(systemd-run -q --scope --slice=user-$uid.slice --unit=session-c1 $drop /run/ask 2>&1)"
is "a scope with the unit's name" "uid=$uid unit=shop.service.scope contained=false lookup=403" "$(systemd-run -q --scope --unit=shop.service.scope $drop /run/ask 2>&1)"

echo "== who would like to be the unit"
# pam_systemd is not on this machine: what it sets for the manager, we set.
cp /etc/pam.d/other /etc/pam.d/systemd-user
mkdir -p /run/systemd/system/user@.service.d
printf '[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%%i\n' >/run/systemd/system/user@.service.d/dir.conf
systemctl daemon-reload
systemctl start user@$uid || fail "the user's manager: $(systemctl status user@$uid)"
by_user() { # LINES… of a shop.service of the user's own; not by systemd-run, which wants a bus
  local home=/home/caller
  runuser -u caller -- mkdir -p $home/.config/systemd/user
  { printf '[Service]\nType=oneshot\nExecStart=/run/ask\nStandardOutput=truncate:%s/said\n' $home; printf '%s\n' "$@"; } >$home/.config/systemd/user/shop.service
  rm -f $home/said
  mine() { runuser -u caller -- env XDG_RUNTIME_DIR=/run/user/$uid systemctl --user "$@"; }
  mine daemon-reload && mine start shop.service && cat $home/said
}
is "shop.service of the user's own manager" "uid=$uid unit=user@$uid.service contained=false lookup=403" "$(by_user 2>&1)"
is "the same, in a slice called system" "uid=$uid unit=user@$uid.service contained=false lookup=403" "$(by_user Slice=system.slice 2>&1)"
is "a delegated subtree with shop.service in it" "uid=$uid unit=deleg.service contained=false lookup=403" "$(in_unit --unit=deleg $as -p Delegate=yes sh -c \
  'c=/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup); mkdir $c/shop.service && echo $$$$ >$c/shop.service/cgroup.procs && exec /run/ask')"
is "a unit whose name begins like it" "uid=$uid unit=shop-evil.service contained=false lookup=403" "$(in_unit --unit=shop-evil $as /run/ask)"

echo "== namespaces"
u="uid=$uid unit=shop.service"
is "unshare -U" "$u contained=false lookup=200" "$(in_unit --unit=shop $as unshare -U /run/ask)"
is "unshare -Ur" "$u contained=false lookup=200" "$(in_unit --unit=shop $as unshare -Ur /run/ask)"
is "a user namespace that calls itself tokenvault" "uid=$uid unit=bill-api.service contained=false lookup=403" \
  "$(in_unit --unit=bill-api $as unshare -U --map-user="$(id -u tokenvault)" /run/ask)"
is "a cgroup namespace" "$u contained=false lookup=200" "$(in_unit --unit=shop unshare -C $drop /run/ask)"
is "a network namespace" "$u contained=false lookup=200" "$(in_unit --unit=shop unshare -n $drop /run/ask)"
is "a pid namespace, made by root" "$u contained=true lookup=403" "$(in_unit --unit=shop unshare -p --fork $drop /run/ask)"
is "a pid namespace, made by the user" "$u contained=true lookup=403" "$(in_unit --unit=shop $as unshare -Up --fork /run/ask)"

echo "== containers, as a container manager makes them: the socket's directory is what they are given"
box() { # SETPRIV… : a container's namespaces, its scope that of the manager
  systemd-run -q --scope --unit="docker-0123456789ab" unshare "$namespaces" --mount-proc --fork "$@" 2>&1 || true
}
namespaces=-mpCinu
is "root in a container" "uid=0 unit=docker-0123456789ab.scope contained=true lookup=403" "$(box /run/ask)"
is "the user in a container" "uid=$uid unit=docker-0123456789ab.scope contained=true lookup=403" "$(box $drop /run/ask)"
is "www-data in a container" "uid=33 unit=docker-0123456789ab.scope contained=true lookup=403" "$(box setpriv --reuid=33 --regid=33 --groups=$gid /run/ask)"
is "a container in the rule's own unit" "$u contained=true lookup=403" "$(in_unit --unit=shop unshare -mpCinu --mount-proc --fork $drop /run/ask)"
is "a container with --pid=host" "uid=$uid unit=docker-0123456789ab.scope contained=false lookup=403" "$(systemd-run -q --scope --unit=docker-0123456789ab unshare -mCinu $drop /run/ask 2>&1)"
admin() { curl -s -o /dev/null -w '%{http_code}' --unix-socket /run/tokenvault/admin/api.sock http://x/v1/admin/status; }
is "root, admin" 200 "$(admin)"
is "root in a container, admin" 403 "$(systemd-run -q --scope --unit=docker-1 unshare -mp --fork curl -s -o /dev/null -w '%{http_code}' --unix-socket /run/tokenvault/admin/api.sock http://x/v1/admin/status 2>&1)"

# The first container rule: contained = true lets it in, and nothing else changes.
printf '[[rule]]\nname = "boxes"\nusers = ["caller"]\ncontained = true\nunits = ["docker-*.scope"]\napps = ["shop"]\ngrants = ["lookup"]\n' >>/etc/tokenvault/tokenvault.toml
tokenvault reload || fail "reload with a rule for containers"
is "the user in a container, contained = true" "uid=$uid unit=docker-0123456789ab.scope contained=true lookup=200" "$(box $drop /run/ask)"
is "root in a container, contained = true" "uid=0 unit=docker-0123456789ab.scope contained=true lookup=403" "$(box /run/ask)"

echo "== the record"
log=/var/log/tokenvault/audit.log
for seen in '"unit":"bill-api.service"' "\"unit\":\"user@$uid.service\"" '"unit":"deleg.service"' '"unit":"docker-0123456789ab.scope"' '"contained":true'; do
  grep -F "$seen" $log | grep -q '"status":403' || { echo "WRONG: no refusal with $seen is recorded"; wrongs=$((wrongs + 1)); }
done
figure "$cases kinds of callers, $wrongs not as expected; $(grep -c '"status":403' $log) refusals in the audit log"
[ "$wrongs" = 0 ] || fail "$wrongs callers were not seen as expected"
userdel -r caller 2>/dev/null || true
sed -i '/^name = "by-unit"$/,$d' /etc/tokenvault/tokenvault.toml
sed -i '$d' /etc/tokenvault/tokenvault.toml # the [[rule]] above it
tokenvault reload || fail "reload as it was"
sync
