package broker

import (
	"context"
	"log/slog"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// resume puts every intent of the store into its user's line, in order of
// arrival, and only then lets anything go on. Each may have been sent by the
// process that wrote it, so each is uncertain; how long it is tried is counted
// from now. A repeat of its session joins it.
func (b *Broker) resume(ctx context.Context) error {
	intents, err := b.cfg.Store.Intents(ctx)
	if err != nil && intents == nil {
		return err
	}
	if err != nil { // the others must not wait for those that cannot be read
		b.log.Error("some intents in the store cannot be read, and are not resumed", slog.Any("error", err))
	}
	found := make([]*run, 0, len(intents))
	for _, in := range intents {
		r := b.newRun(b.sessionName(in), in)
		r.resumed, r.uncertain = true, true
		b.mu.Lock()
		b.running[r.name] = r
		b.mu.Unlock()
		if err := b.joinLine(r); err != nil {
			return err
		}
		found = append(found, r)
	}
	if len(found) > 0 {
		b.log.Info("exchanges of an earlier start are resumed", slog.Int("count", len(found)))
	}
	doubtful := b.doubtful(ctx) // of earlier starts: whoever comes to be in doubt now is repaired then
	close(b.resumed)
	b.spawn(func() { b.repairAll(doubtful) })
	for _, r := range found {
		goOn := func() {
			defer r.release()
			b.pursue(r, b.outset(r))
		}
		if !b.spawn(goOn) {
			r.release()
			b.settle(r, "", user.Result{}, pending(r).err)
		}
	}
	return nil
}
