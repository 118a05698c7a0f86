// Package house holds the tests of the house rules: which package may import
// which, who may construct, where secrets are revealed, how long a function is.
//
// They parse the sources of the module themselves, every file whatever its build
// constraints, so that a result out of go test's cache is never an old one. The
// package trusts the files of the module and go/parser. It has no code of its
// own, starts no other program and writes nothing but, with -update, the retry
// table of packaging/doc/reliability.md.
package house
