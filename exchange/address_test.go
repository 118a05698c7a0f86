package exchange

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPublicAddresses(t *testing.T) {
	for address, want := range map[string]bool{
		"34.117.59.81": true, "8.8.8.8": true, "100.63.255.255": true, "100.128.0.0": true, "172.15.0.1": true, "172.32.0.1": true,
		"2600:1901:0:38d7::": true, "2a00:1450:4001:80b::200e": true, "::ffff:8.8.8.8": true, "64:ff9b::808:808": true, "2002:808:808::1": true,
		"127.0.0.1": false, "127.255.255.254": false, "0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "172.16.0.1": false,
		"172.31.255.255": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false, "100.127.255.255": false,
		"100.100.100.200": false, "192.0.0.192": false, "192.0.2.1": false, "198.18.0.1": false, "224.0.0.1": false, "239.1.2.3": false,
		"240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "fe80::1": false, "febf::1": false, "fec0::1": false, "fc00::1": false, "fd00:ec2::254": false, "ff02::1": false,
		"::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "::127.0.0.1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b::7f00:1": false,
		"64:ff9b:1::808:808": false, "2002:7f00:1::1": false, "2002:a9fe:a9fe::1": false, "2001::1": false, "2001:db8::1": false, "100::1": false,
		"::ffff:0:127.0.0.1": false, "2600::1%eth0": false,
	} {
		if got := public(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is public: %v", address, got)
		}
	}
}

// Which addresses may be dialled depends on what stands in the URL.
func TestChecker(t *testing.T) {
	for _, c := range []struct {
		url     string
		private bool
		allowed string // of: public, private, loopback
	}{
		{"https://user.humanapi.co", false, "public"},
		{"https://user.humanapi.co", true, "public private loopback"},
		{"https://127.1", false, "public"}, // an address for libc, a name for us
		{"https://2130706433", false, "public"},
		{"https://localhost.", false, "public"},
		{"https://a.localhost", false, "public"},
		{"https://10.0.0.5", false, "public private loopback"}, // the operator's word
		{"https://[fd00::5]:8443", false, "public private loopback"},
		{"https://LocalHost", false, "loopback"},
		{"http://localhost:8080", true, "loopback"},
		{"http://127.0.0.1:8080", true, "loopback"},
	} {
		o, err := parseOrigin(Config{UserURL: c.url, UnsafePlainHTTP: true})
		if err != nil {
			t.Fatal(c.url, err)
		}
		check := checker(o, c.private)
		var got []string
		for _, a := range [][2]string{{"public", "34.117.59.81:443"}, {"private", "10.0.0.5:443"}, {"loopback", "[::ffff:127.0.0.1]:443"}} {
			if check == nil || check("tcp", a[1], nil) == nil {
				got = append(got, a[0])
			}
		}
		if !slices.Equal(got, strings.Fields(c.allowed)) {
			t.Errorf("%s (private %v): %v may be dialled", c.url, c.private, got)
		}
	}
	for _, bad := range []string{"", "user.humanapi.co:443", "34.117.59.81", "34.117.59.81:https"} {
		if publicOnly("tcp", bad, nil) == nil {
			t.Errorf("%q may be dialled", bad)
		}
	}
}

// nameServer answers every question for an IPv4 address with these, one after the
// other, and every other with nothing.
func nameServer(t testing.TB, answers ...string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		b := make([]byte, 1500)
		for asked := 0; ; {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			answer, isA := named(b[:n], answers[min(asked, len(answers)-1)])
			if isA {
				asked++
			}
			_, _ = conn.WriteTo(answer, from)
		}
	}()
	var d net.Dialer
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// named is the answer to a DNS query (RFC 1035 section 4.1) with one address.
func named(query []byte, address string) (answer []byte, isA bool) {
	end := 12
	for query[end] != 0 {
		end += 1 + int(query[end])
	}
	end += 5 // the root, type, class
	isA = binary.BigEndian.Uint16(query[end-4:]) == 1
	answer = append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:end]...)
	if isA {
		ip := netip.MustParseAddr(address).As4()
		answer[7] = 1
		answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		answer = append(answer, ip[:]...)
	}
	return answer, isA
}

// resolving is a client whose names are resolved by r.
func resolving(t testing.TB, c Config, r *net.Resolver) *Client {
	t.Helper()
	o, err := parseOrigin(c)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDialer(c, o)
	if err != nil {
		t.Fatal(err)
	}
	d.net.Resolver = r
	cl := newClient(t, c)
	cl.pool.dial = d.dial
	return cl
}

// Whoever answers for DNS sends the clientSecret nowhere: not to this machine, an
// inner host or a metadata service, though its certificate would be good.
func TestNameOfAPrivateAddress(t *testing.T) {
	sim, url, ca := startTLS(t, nil)
	byName := strings.Replace(url, "127.0.0.1", "example.com", 1) // the certificate is for both
	for _, address := range []string{"127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"} {
		c := resolving(t, Config{UserURL: byName, CAFile: ca, Timeout: time.Minute}, nameServer(t, address))
		_, err := c.Tokens(t.Context(), finish(sim))
		e := wantClass(t, err, NotSent, 0)
		if !errors.Is(e, ErrPrivateAddress) || !strings.Contains(e.Error(), "humanapi.unsafe_private_addresses") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if n := sim.Count(tokensPath); n != 0 {
		t.Fatalf("%d requests arrived", n)
	}
	c := resolving(t, Config{UserURL: byName, CAFile: ca, UnsafePrivateAddresses: true}, nameServer(t, "127.0.0.1"))
	if _, err := c.Tokens(t.Context(), finish(sim)); err != nil {
		t.Error(err)
	}
	if got := "https://" + sim.Requests()[0].Host; got != byName {
		t.Errorf("the Host is not the origin's: %s", got)
	}
}

// An answer of DNS that changes once the name was looked at changes nothing: it is
// each connection's own address that is looked at.
func TestRebinding(t *testing.T) {
	sim, url, ca := startTLS(t, nil)
	names := nameServer(t, "127.0.0.1", "169.254.169.254", "127.0.0.1")
	c := resolving(t, Config{UserURL: strings.Replace(url, "127.0.0.1", "example.com", 1), CAFile: ca}, names)
	for range 3 {
		_, err := c.Tokens(t.Context(), finish(sim))
		if e := wantClass(t, err, NotSent, 0); !errors.Is(e, ErrPrivateAddress) {
			t.Error(err)
		}
	}
	if n := sim.Count(tokensPath); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// A proxy may be anywhere; the name of Human API is its to resolve.
func TestProxyOnPrivateAddress(t *testing.T) {
	handler, asked := proxy(t, "HTTP/1.1 403 Forbidden\r\n\r\n")
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	inner := strings.Replace(server.URL, "127.0.0.1", "proxy.example", 1)
	c := resolving(t, Config{UserURL: "https://user.humanapi.co", ProxyURL: inner}, nameServer(t, "127.0.0.1"))
	_, err := c.Tokens(t.Context(), request("sim-session"))
	if e := wantClass(t, err, NotSent, 0); !strings.Contains(e.Error(), "answered CONNECT with 403") || asked.Load() != "CONNECT user.humanapi.co:443" {
		t.Errorf("got %v, and the proxy was asked: %v", err, asked.Load())
	}
}

func FuzzPublic(f *testing.F) {
	for _, seed := range []string{"127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "2002:c0a8:101::1", "2600::1", "fe80::1"} {
		a := netip.MustParseAddr(seed).As16()
		f.Add(a[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != 16 {
			return
		}
		a := netip.AddrFrom16([16]byte(b))
		plain := a.Unmap()
		if bad := plain.IsPrivate() || plain.IsLoopback() || plain.IsLinkLocalUnicast() || plain.IsMulticast() || plain.IsUnspecified(); bad && public(a) {
			t.Errorf("%s is taken for public", a)
		}
		if public(a) != public(plain) {
			t.Errorf("%s and %s are the same address", a, plain)
		}
	})
}
