package vault

import (
	"bytes"
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"
)

// watch is a running LifetimeWatcher, with what the watcher lacks: an end that
// does not wait for a request, and a minimum between two renewals. Its methods
// take a nil watch.
//
// As long as renewals succeed the watcher keeps a distance by itself: its grace
// is at least a tenth of the lease, it goes on only when more than four graces
// are left, and it sleeps two thirds of what is left and a third of the grace.
// But when renewals fail (Vault answers 500 "past the max TTL") and its backoff
// has used up its time, it takes backoff's zero Stop for a pause of zero and
// sends hundreds of requests a second (measured with vault/api 1.23.0). So a
// renewal within floor of the last is not sent: the watch is over, and a login
// follows.
type watch struct {
	w      *api.LifetimeWatcher
	done   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	floor  time.Duration
	soon   chan struct{} // holds an element when a renewal came too soon
	outage func() error  // why Vault is known to be unreachable, nil when it is not

	mu   sync.Mutex
	last time.Time // of the last renewal that was wanted, by the real clock
	sent time.Time // of the last that was sent
}

func (k *keeper) startWatch() {
	c := k.client
	c.lend(c.renew)
	w, err := c.renew.api.NewLifetimeWatcher(&api.LifetimeWatcherInput{
		Secret: k.kept.watched(), RenewBehavior: api.RenewBehaviorIgnoreErrors,
	})
	if err != nil { // only for missing input
		k.wantLogin(k.kept.lease * 2 / 3)
		return
	}
	k.watch = &watch{w: w, done: make(chan struct{}), floor: c.pace.floor, soon: make(chan struct{}, 1), outage: c.knownOutage}
	k.watch.ctx, k.watch.cancel = context.WithCancel(k.until)
	c.bound.watch.Store(k.watch)
	go func(running *watch) {
		defer close(running.done)
		running.w.Start()
	}(k.watch)
}

// renewed tells of every renewal.
func (w *watch) renewed() <-chan *api.RenewOutput {
	if w == nil {
		return nil
	}
	return w.w.RenewCh()
}

// ended is closed when the watcher sees the end of the lease.
func (w *watch) ended() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.done
}

// hasty tells that the watcher wants to renew too soon.
func (w *watch) hasty() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.soon
}

// stop ends the watcher and its request, and waits for it.
func (w *watch) stop() {
	if w == nil {
		return
	}
	w.cancel()
	w.w.Stop()
	<-w.done
}

// justNow reports whether a renewal was wanted less than floor ago.
func (w *watch) justNow() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.last.IsZero() && time.Since(w.last) < w.floor
}

// sentJustNow reports whether a renewal was sent less than floor ago.
func (w *watch) sentJustNow() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.sent.IsZero() && time.Since(w.sent) < w.floor
}

// admit returns when a renewal may be sent, or with an error when the watch is
// over, or Vault is known to be away: it is not the watcher who asks whether it is
// back.
func (w *watch) admit() error {
	if w.justNow() {
		select {
		case w.soon <- struct{}{}:
		default: // told already
		}
		<-w.ctx.Done()
	}
	if w.ctx.Err() != nil {
		return inOurWords(context.Canceled)
	}
	outage := w.outage()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = time.Now()
	if outage == nil {
		w.sent = w.last
	}
	return outage
}

// boundTransport carries the requests of the current watch, and ends them with
// it: vault/api's watcher sends them with context.Background. What it makes strings
// of must hold no token: it is overwritten in the answer.
type boundTransport struct {
	base  http.RoundTripper
	watch atomic.Pointer[watch]
}

func (b *boundTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	w := b.watch.Load()
	if w == nil {
		return nil, inOurWords(context.Canceled)
	}
	if err := w.admit(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel() // our transport has read the body by then
	defer context.AfterFunc(w.ctx, cancel)()
	resp, err := b.base.RoundTrip(req.WithContext(ctx))
	if err == nil {
		withoutToken(resp)
	}
	return resp, err
}

// withoutToken makes the token in the answer to a renewal unreadable, and leaves
// the answer JSON.
func withoutToken(resp *http.Response) {
	body, ok := resp.Body.(*wipedBody)
	if !ok {
		return
	}
	auth, err := answer{body: body.bytes}.secrets("auth")
	if token := auth["client_token"]; err == nil && len(token) > 2 {
		token = token[1 : len(token)-1]
		copy(token, bytes.Repeat([]byte("x"), len(token)))
	}
}
