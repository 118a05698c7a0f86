package audit

import (
	"context"
	"time"
)

// checkpointDelay leaves a tenth of the second that a line may stay unsigned to
// the writing of the checkpoint.
const checkpointDelay = 900 * time.Millisecond

// checkpoints signs and syncs what was written, until the log is closed. It is
// idle while nothing is written.
func (l *Log) checkpoints() {
	defer l.done.Done()
	for {
		select {
		case <-l.stop:
			return
		case <-l.wake:
		}
		select {
		case <-l.stop:
			return
		case <-time.After(checkpointDelay):
		}
		l.signAndSync()
	}
}

// Sign writes a checkpoint at once, unless the last line is one, and returns when
// it is durable. A daemon that signs at its start has a signed log however early
// it is killed. Errors match ErrUnavailable.
func (l *Log) Sign(ctx context.Context) error {
	l.mu.Lock()
	err := l.usable()
	if err == nil {
		err = l.checkpoint()
	}
	seq := l.seq
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return l.syncTo(ctx, seq)
}

// signAndSync tries again a little later when it fails: unlike a caller of Write,
// nobody would come back for it.
func (l *Log) signAndSync() {
	err := l.Sign(context.Background())
	if err == nil {
		return
	}
	l.mu.Lock()
	closed := l.closed // then Close has signed
	l.mu.Unlock()
	if closed {
		return
	}
	l.logger.Error("audit log: no checkpoint", "path", l.path, "error", err)
	select {
	case <-l.group.broken: // final
	case l.wake <- struct{}{}:
	default:
	}
}

// checkpoint signs the head, unless the last line has done so. The caller holds
// mu.
func (l *Log) checkpoint() error {
	if l.signed {
		return nil
	}
	b := appendStart(l.buf[:0], l.seq+1, l.now(), kindCheckpoint)
	signature := l.sign(signedBytes(l.instance, l.incarnation, l.segment, l.seq, l.head))
	if err := l.append(appendSignature(b, signature)); err != nil {
		return err
	}
	l.signed = true
	return nil
}
