. /share/lib.sh
# How much the shipped service can do, while everything works.
most=14 # tenths, of systemd-analyze's 100: what a change would cost stands in the unit
start_sim
start_vault
systemctl start --no-block tokenvault
within 20 sound || fail "not sound: $(health)"
exchange harriet
known harriet
tokenvault status | grep -q "kept" || fail "the restart memory is not kept: $(tokenvault status)"

said=$(systemd-analyze verify /etc/systemd/system/tokenvault.service /share/repo/packaging/systemd/*.socket 2>&1) || fail "systemd-analyze verify: $said"
[ -z "$said" ] || fail "systemd-analyze verify has something to say: $said"
systemd-analyze security --no-pager --threshold=$most tokenvault.service >/tmp/score || fail "systemd-analyze security is above $most tenths: $(grep -v '^. [✓]' /tmp/score | grep -o '✗.*' || true; tail -n 1 /tmp/score)"
figure "$(grep -o 'Overall exposure level.*' /tmp/score), with a restart memory kept, an exchange and a lookup"

echo "== the process itself"
pid=$(systemctl show -P MainPID tokenvault)
line() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status"; }
for set in CapInh CapPrm CapEff CapBnd CapAmb; do
  [ "$(line $set)" = 0000000000000000 ] || fail "$set is $(line $set)"
done
[ "$(line NoNewPrivs)" = 1 ] || fail "new privileges are possible"
[ "$(line Seccomp)" = 2 ] || fail "no seccomp filter"
case $(line Uid) in *[!0-9]0[!0-9]*) fail "it runs as root" ;; esac
grep -q '^Max core file size  *0  *0 ' "/proc/$pid/limits" || fail "it may dump core: $(grep core "/proc/$pid/limits")"
figure "the process: $(line Seccomp_filters) seccomp filters, no capability, $(line VmRSS) resident, $(line VmLck) locked"

echo "== what a service of this kind may not do"
# The same unit with a shell in it: these lines are about the unit alone, without
# what the daemon takes away from itself.
mkdir -p /run/systemd/system/probe.service.d
sed 's,^ExecStart=.*,ExecStart=/bin/sh /share/probe.sh,; s,^Type=.*,Type=oneshot,; /^ExecReload/d; /^Restart=/d; /^Watchdog/d; s,=tokenvault$,=tokenvault-probe,; s,^User=.*,User=tokenvault,; s,^Group=.*,Group=tokenvault,; /^\[Install\]/,$d' \
  /etc/systemd/system/tokenvault.service >/run/systemd/system/probe.service
printf '[Service]\nStandardOutput=append:/tmp/probe.log\nStandardError=append:/tmp/probe.log\nPrivateTmp=no\nReadWritePaths=/tmp\n' >/run/systemd/system/probe.service.d/log.conf
systemctl daemon-reload
systemctl start probe || fail "the probe: $(cat /tmp/probe.log)"
grep -q '^done$' /tmp/probe.log || fail "the probe ended early: $(cat /tmp/probe.log)"
grep '^allowed: ' /tmp/probe.log && fail "the unit lets the service do that"
open=$(systemd-run -q --wait --pipe --collect -p User=tokenvault sh /share/probe.sh | grep -c '^allowed: ')
[ "$open" -ge 8 ] || fail "without the unit only $open of that can be done: the probe proves nothing"
figure "$open of these are open to the same user outside of the unit"
figure "the unit alone refuses: $(sed -n 's/^refused: //p' /tmp/probe.log | paste -sd, | sed 's/,/, /g')"
