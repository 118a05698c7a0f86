. /share/lib.sh
start_sim
start_vault
systemctl start --no-block tokenvault
within 20 curl -s --unix-socket /run/tokenvault/admin/api.sock http://localhost/v1/health || fail "no socket after the reboot"
sleep 3
ready && fail "ready after a reboot although the wrapping token is used"
said=$(tokenvault status 2>&1 || true)
echo "$said" | grep -q "wrapping token" || fail "it does not say why: $said"
figure "after a reboot with a used wrapping token: $(echo "$said" | grep -m1 -o '[^:]*wrapping token[^;]*' | head -c 200)"
export VAULT_TOKEN=$(cat /var/lib/vault-test/root)
vault write -wrap-ttl=5m -f -field=wrapping_token auth/approle/role/tokenvault/secret-id >/etc/tokenvault/vault-secret-id
systemctl restart --no-block tokenvault # systemd hands a credential over at the start
sleep 0.3
within 20 sound || fail "not sound with a new wrapping token: $(health)"
for u in alice emil frida3 gregor; do known $u; done
