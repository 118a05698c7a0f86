. /share/lib.sh
# The README's first installation, word for word, but for the build, what an
# administrator types at a prompt, and the addresses.
start_vault
start_sim
cd /share/repo
began=$(now)
. /share/readme1.sh
sed -i 's,https://vault.internal:8200,http://127.0.0.1:8200,' /etc/tokenvault/tokenvault.toml
sed -i 's,^\[vault\]$,[vault]\nunsafe_plain_http = true\ntimeout = "1s",' /etc/tokenvault/tokenvault.toml
printf '[humanapi]\nuser_url = "http://127.0.0.1:8300"\nunsafe_plain_http = true\n' >>/etc/tokenvault/tokenvault.toml
. /share/readme2.sh
within 20 ready || fail "not ready after the installation"
figure "the README's installation, from the binary to ready: $(($(now) - began)) ms"
exchange alice
known alice
tokenvault status | grep -q "kept" || fail "the restart memory is not kept: $(tokenvault status)"
[ "$(systemctl show -P NFileDescriptorStore tokenvault)" = 1 ] || fail "systemd keeps no descriptor"

echo "== restart with Vault stopped"
systemctl stop vault-test
began=$(now)
systemctl restart --no-block tokenvault
within 20 ready || fail "not ready with Vault stopped"
figure "restart with Vault stopped: ready after $(($(now) - began)) ms"
within 20 degraded || fail "Vault is away, and health says nothing"
known alice
exchange bob
systemctl kill -s KILL tokenvault
within 20 ready || fail "not ready after kill -9 with Vault stopped"
known bob
exchange carol
start_vault
began=$(now)
within 20 sound || fail "not sound after Vault came back: $(health)"
figure "Vault came back: sound after $(($(now) - began)) ms"
exchange dora
systemctl reload tokenvault || fail "reload"

echo "== a reboot with Vault stopped, for the next boot"
sync
