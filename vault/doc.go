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
// and never drops a token that still works because Vault was briefly away. It
// leaves no copies of secrets in memory: what it holds (the token, clientSecrets, an
// unwrapped secret id, credentials) is in the locked region of crypto/secret, what
// carries it is cleared after each request, and what comes is decoded where it lies.
//
// [Secrets] is the cache of clientSecrets with its bounds on staleness;
// [Operator] is what the command line does with the operator's own token.
//
// BUG: what is handed out for use is on the heap until whoever was given it wipes
// it. An answer of Vault's names neither the path that was asked for nor the app: a
// Vault that gives one app's secret out as another's is believed, and Human API
// refuses what it gave.
//
// BUG: variables that the Go runtime itself reads (GODEBUG, and those of the
// system's resolver) have the effect that they have on every Go program.
package vault
