package server

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
)

// seen says in words what the kernel says the caller is: nothing in it was sent.
func (q *call) seen() string {
	c := q.conn.caller
	var b strings.Builder
	fmt.Fprintf(&b, "you are uid %d", c.UID)
	if name := q.server.accounts.name(c.UID); name != "" {
		fmt.Fprintf(&b, " (%s)", name)
	}
	switch {
	case c.Unit == "":
		b.WriteString(", in no unit that is known")
	case c.Proven:
		fmt.Fprintf(&b, ", in unit %s", c.Unit)
	default:
		fmt.Fprintf(&b, ", in unit %s (not proven)", c.Unit)
	}
	if c.Contained {
		b.WriteString(", contained")
	} else {
		b.WriteString(", not contained")
	}
	fmt.Fprintf(&b, ", on the socket %s", q.conn.listener)
	return b.String()
}

// unknown answers a caller whom no rule names.
func (q *call) unknown() reply {
	return refuse(api.UnknownCaller).because(q.seen() + ", and no rule names you: ask the operator for one; GET /v1/whoami shows who you are here")
}

// gone answers where the process that connected is no more.
func (q *call) gone() reply {
	return refuse(api.UnknownCaller).because("the process that connected has exited, and what it may do is nobody else's: connect from the process that asks")
}

// denied answers a caller whose rules do not give the grant. It says the same of
// an app that is not the caller's and of one that does not exist.
func (q *call) denied(app user.ClientID, g api.Grant) reply {
	why := "no rule gives you " + string(g)
	switch v := q.conn.view; {
	case !v.InCeiling(g):
		why = "nobody is given " + string(g) + " there"
	case v.WantsProof(app, g, ""):
		why = "the rule for your unit does not name your user, which " + string(g) + " takes as long as the unit is not proven"
	case !g.IsAdmin():
		why += " for this app"
	}
	return refuse(api.NotGranted).because(q.seen() + ", and " + why + ": GET /v1/whoami shows your rights; ask the operator")
}

// accounts are the names of /etc/passwd (passwd(5)): a name service could keep
// callers waiting. The file is read again when it has changed.
type accounts struct {
	mu      sync.Mutex
	names   map[uint32]string
	changed time.Time
	size    int64
}

// maxAccounts is how many bytes of /etc/passwd are read: 4 MiB.
const maxAccounts = 4 << 20

// name is "" when the user is not there.
func (a *accounts) name(uid uint32) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, err := os.Stat("/etc/passwd")
	if err != nil {
		return ""
	}
	if a.names == nil || !f.ModTime().Equal(a.changed) || f.Size() != a.size {
		a.names, a.changed, a.size = readAccounts(), f.ModTime(), f.Size()
	}
	return a.names[uid]
}

// readAccounts keeps the first name of a uid, as the C library does.
func readAccounts() map[uint32]string {
	out := map[uint32]string{}
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return out
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(io.LimitReader(f, maxAccounts)); lines.Scan(); {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) != 7 {
			continue
		}
		uid, err := strconv.ParseUint(fields[2], 10, 32)
		if _, twice := out[uint32(uid)]; err == nil && !twice {
			out[uint32(uid)] = fields[0]
		}
	}
	return out
}
