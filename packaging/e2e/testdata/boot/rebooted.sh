. /share/lib.sh
start_sim
systemctl start --no-block tokenvault
within 20 curl -s --unix-socket /run/tokenvault/admin/api.sock http://localhost/v1/health || fail "no socket after the reboot"
sleep 3
ready && fail "ready after a reboot although Vault is stopped"
said=$(tokenvault status 2>&1 || true)
echo "$said" | grep -q "cannot be reached" || fail "it does not say why: $said"
figure "after a reboot with Vault stopped: $(health)"
start_vault
began=$(now)
within 20 sound || fail "not sound after Vault came back: $(health)"
figure "after the reboot, Vault came back: sound after $(($(now) - began)) ms"
for u in alice bob carol dora; do known $u; done
