. /share/lib.sh
start_sim
start_vault
export VAULT_TOKEN=$(cat /var/lib/vault-test/root)
systemctl stop tokenvault
sed -i 's,^role_id_file,wrapped = true\nrole_id_file,' /etc/tokenvault/tokenvault.toml
vault write -wrap-ttl=5m -f -field=wrapping_token auth/approle/role/tokenvault/secret-id >/etc/tokenvault/vault-secret-id
systemctl start --no-block tokenvault
within 20 ready || fail "not ready with a wrapped secret id"
exchange emil
for n in 1 2 3; do
  systemctl restart --no-block tokenvault
  sleep 0.3
  within 20 ready || fail "not ready after restart $n with a used wrapping token"
  exchange "frida$n"
done
systemctl stop vault-test
systemctl restart --no-block tokenvault
sleep 0.3
within 20 ready || fail "not ready with a used wrapping token and Vault stopped"
exchange gregor
start_vault
within 20 sound || fail "not sound after Vault came back: $(health)"
figure "4 restarts with a used, wrapped secret id: ready and exchanging each time"
systemctl enable tokenvault >/dev/null 2>&1
sync
