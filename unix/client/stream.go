package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// errSilent ends a stream that stands still.
var errSilent = fmt.Errorf("the daemon sent nothing for too long: %w", context.DeadlineExceeded)

// AdminStoreBackup writes a backup of the whole store to w and returns how many
// bytes it has. The Client's Timeout bounds each silence, not the whole. An error
// of w is returned as it is. Whatever stands in w with an error is no backup.
func (c *Client) AdminStoreBackup(ctx context.Context, w io.Writer) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(c.timeout, func() { cancel(errSilent) })
	defer silence.Stop()
	req, err := call{method: http.MethodPost, path: "/v1/admin/store/backup"}.request(ctx)
	if err != nil {
		return 0, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("call the daemon at %s: %w", c.socket, c.why(ctx, bare(err)))
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer)) // a part says as much as can be said
		return 0, refusal(res, answer)
	}
	return c.copy(ctx, w, res.Body, silence)
}

// copy is io.Copy that knows whose the error is. The time that w takes is no
// silence of the daemon's.
func (c *Client) copy(ctx context.Context, w io.Writer, from io.Reader, silence *time.Timer) (n int64, err error) {
	buf := make([]byte, 64<<10)
	defer clear(buf)
	for {
		silence.Reset(c.timeout)
		got, err := from.Read(buf)
		silence.Stop()
		if got > 0 {
			put, werr := w.Write(buf[:got])
			if n += int64(put); werr != nil {
				return n, werr
			}
		}
		if err == io.EOF { // whole: a stream that is cut off is io.ErrUnexpectedEOF
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("read the daemon's answer at %s: cut off after %d bytes: %w", c.socket, n, c.why(ctx, err))
		}
	}
}

// why prefers the reason for which a call was ended to what the call says.
func (c *Client) why(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
