// Package e2e runs the whole product as its users do: the real binary as an
// unprivileged user, a real HashiCorp Vault server that its own CLI has set up,
// and callers that are real processes under other uids. Only Human API is a
// simulator.
//
// It holds tests and nothing else. They need root, to become those users, and
// what packaging/test.sh installs. They print their figures on lines that start
// with "figure:".
package e2e
