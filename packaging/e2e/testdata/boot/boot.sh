#!/bin/bash
# boot.sh NAME ROOT SHARE VAULT: boots ROOT as a container whose PID 1 is systemd,
# runs SHARE/run.sh in it as a service, and exits as that does. A cgroup of its own
# keeps parallel boots apart (systemd-nspawn 252 has them share one).
set -u
name=$1 root=$2 share=$3 vault=$4
groups=()
for h in /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup; do
  [ -f "$h/cgroup.procs" ] || continue
  mkdir -p "$h/$name" && echo $$ >"$h/$name/cgroup.procs" && groups+=("$h")
done
leave() {
  for h in "${groups[@]}"; do
    echo $$ >"$h/cgroup.procs"
    [ ! -f "$h/$name/cgroup.kill" ] || echo 1 >"$h/$name/cgroup.kill"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      find "$h/$name" -depth -type d -exec rmdir {} \; 2>/dev/null
      [ -d "$h/$name" ] || break
      sleep 0.2
    done
  done
}
trap leave EXIT
# What nspawn's own filter denies and the unit asks for is let through; written as
# one argument.
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout -k 5 90 systemd-nspawn -q -D "$root" --register=no --keep-unit --boot \
  --private-network --link-journal=no -M "$name" --bind="$share:/share" --bind-ro="$vault:/usr/local/bin/vault" \
  --bind-ro="$share/e2e.service:/etc/systemd/system/e2e.service" \
  "--system-call-filter=@memlock memfd_secret landlock_create_ruleset landlock_add_rule landlock_restrict_self open_by_handle_at bpf" \
  systemd.wants=e2e.service systemd.show_status=0 >"$share/console.log" 2>&1 </dev/null
