// Package bench measures what the project promises, as ratios against a floor
// in the same run on the same machine:
//
//	go test -bench . ./packaging/bench
//
// It measures the real binary as a process of its own: "tokenvault dev", which
// is the whole daemon over the Human API simulator, with keys and secrets from
// inside the process instead of Vault (Vault is asked for neither a lookup nor
// an exchange). The floor is another process that does as little as possible.
// Both have the same callers, of two kinds: net/http's client, as in most
// programs, and lean ones that leave the cores to the servers, which makes the
// ratio harder. Allocations are the callers'; what the servers cost is said as
// time on their cores.
//
// It holds benchmarks and nothing else, trusts the machine to be otherwise idle,
// and keeps everything in directories that go away. Its figures stand on lines
// that start with "figure:". Files are made in /tmp: where that is no disk, so
// are the figures of syncs.
package bench
