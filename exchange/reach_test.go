package exchange_test

import (
	"net"
	"testing"

	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// Reach connects, asks nothing, and says why it cannot.
func TestReach(t *testing.T) {
	s := humanapitest.Start(t, humanapitest.Config{})
	if err := exchange.Reach(t.Context(), exchange.Config{UserURL: s.URL, UnsafePlainHTTP: true}); err != nil {
		t.Error(err)
	}
	if n := len(s.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := "http://" + l.Addr().String()
	_ = l.Close()
	for _, c := range []exchange.Config{{UserURL: gone, UnsafePlainHTTP: true}, {UserURL: s.URL}, {UserURL: "http://human.test", UnsafePlainHTTP: true}} {
		if err := exchange.Reach(t.Context(), c); err == nil {
			t.Errorf("%+v was reached", c)
		}
	}
}
