# Its role must have token_no_default_policy=true: Vault's default policy grants more.
path "secret/data/tokenvault/apps/*" {
  capabilities = ["read"]
}
path "secret/metadata/tokenvault/apps/*" {
  capabilities = ["read"]
}
path "secret/data/tokenvault/state/*" {
  capabilities = ["create", "read", "update"]
}
path "transit/encrypt/tokenvault" {
  capabilities = ["update"]
}
path "transit/decrypt/tokenvault" {
  capabilities = ["update"]
}
path "transit/rewrap/tokenvault" {
  capabilities = ["update"]
}
path "transit/keys/tokenvault" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
path "sys/capabilities-self" {
  capabilities = ["update"]
}
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
