// Package vault is the daemon's client of HashiCorp Vault: it logs in, keeps
// its token alive, reads the clientSecrets of apps and keeps the rollback anchor
// (KV v2), wraps and unwraps keys (Transit), and says in our own words why Vault
// would not. What a restart during an outage needs can be taken out of it and given
// back ([Memory], [SecretMemory]); where that is kept is not its business.
//
// It trusts the configured address, the authorities that its certificate is
// checked against, and the files that its credentials come from. It does not
// trust the environment (vault/api reads two dozen variables even when given a
// configuration; none has an effect here), nor what answers at the address
// before it has shown that it speaks as Vault does: whatever does not is
// "unreachable", never "no".
//
// It never writes a secret to disk, never puts a secret or Vault's own text into
// an error or a log, never follows a redirect, never retries inside a request,
// and never drops a token that still works because Vault was briefly away.
//
// [Secrets] is the cache of clientSecrets with its bounds on staleness;
// [Operator] is what the command line does with the operator's own token.
//
// BUG: variables that the Go runtime itself reads (GODEBUG, and those of the
// system's resolver) have the effect that they have on every Go program.
package vault
