package exchange

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
)

// ErrPrivateAddress is matched by the error of an attempt whose host name
// resolved to an address that no public service has.
var ErrPrivateAddress = errors.New("the name resolved to an address that is not public: " +
	"where that is meant, set humanapi.unsafe_private_addresses, or write the address itself into the URL")

var errNotLoopback = errors.New("the name resolved to an address that is not loopback")

// checker is for net.Dialer.Control: it looks at the address that is really
// dialled, for each that a name resolved to, so that no second answer of DNS can
// come between. An address in the URL is the operator's word; nil lets it pass.
func checker(o origin, private bool) func(network, address string, c syscall.RawConn) error {
	_, err := netip.ParseAddr(o.hostname)
	literal := err == nil
	switch {
	case !o.secure || !literal && strings.EqualFold(o.hostname, "localhost"):
		return loopbackOnly
	case literal || private:
		return nil
	}
	return publicOnly
}

func loopbackOnly(_, address string, _ syscall.RawConn) error {
	if at, err := netip.ParseAddrPort(address); err != nil || !at.Addr().Unmap().IsLoopback() {
		return errNotLoopback
	}
	return nil
}

func publicOnly(_, address string, _ syscall.RawConn) error {
	if at, err := netip.ParseAddrPort(address); err != nil || !public(at.Addr()) {
		return ErrPrivateAddress
	}
	return nil
}

// notPublic4 is what the IANA IPv4 Special-Purpose Address Registry (RFC 6890)
// calls not globally reachable, with the anycast exceptions in 192.0.0.0/24 left
// out (some clouds keep their metadata there), and multicast.
var notPublic4 = prefixes("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
	"172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4")

// In IPv6 only 2000::/3 is assigned to the public (RFC 4291 section 2.4). Within it
// these are not: IETF protocol assignments with Teredo, and documentation.
var (
	public6    = netip.MustParsePrefix("2000::/3")
	notPublic6 = prefixes("2001::/23", "2001:db8::/32", "3fff::/20")
	// An IPv4 address stands in these, at the end (RFC 6052 section 2.1) and behind
	// the first two bytes (RFC 3056 section 2), and is what is reached in the end.
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour = netip.MustParsePrefix("2002::/16")
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}

// public reports whether an address can be that of a public service.
func public(a netip.Addr) bool {
	a = a.Unmap() // ::ffff:10.0.0.1 is 10.0.0.1
	if a.Zone() != "" {
		return false
	}
	if a.Is4() {
		return !within(notPublic4, a)
	}
	b := a.As16()
	switch {
	case nat64.Contains(a):
		return public(netip.AddrFrom4([4]byte(b[12:])))
	case sixToFour.Contains(a):
		return public(netip.AddrFrom4([4]byte(b[2:6])))
	}
	return public6.Contains(a) && !within(notPublic6, a)
}

func within(all []netip.Prefix, a netip.Addr) bool {
	for _, p := range all {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
