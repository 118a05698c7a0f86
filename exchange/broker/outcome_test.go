package broker_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// Every way in which Human API can answer, and what becomes of the exchange.
func TestOutcomes(t *testing.T) {
	type fault = humanapitest.Fault
	const kept = true
	for _, c := range []struct {
		name    string
		faults  []fault
		mode    humanapitest.Mode
		unknown bool // the session token is not known to Human API
		kind    user.Failure
		outcome user.Outcome
		kept    bool // a repeat is answered from the store
		asked   int
	}{
		{name: "right", outcome: user.Stored, kept: kept, asked: 1},
		{name: "refused", unknown: true, kind: user.SessionRefused, outcome: user.Refused, kept: kept, asked: 1},
		{name: "404", faults: []fault{{Status: 404}}, kind: user.SessionRefused, outcome: user.Refused, kept: kept, asked: 1},
		{name: "redirect, then right", faults: []fault{{Kind: humanapitest.Redirect}}, outcome: user.Stored, kept: kept, asked: 2},
		{name: "408, 421, 425, then right", faults: []fault{{Status: 408}, {Status: 421}, {Status: 425}}, outcome: user.Stored, kept: kept, asked: 4},
		{name: "408 with effect, one-time", faults: []fault{{Status: 408, TakesEffect: true}}, kind: user.ExchangeUnknown, outcome: user.IndeterminateOutcome, kept: kept, asked: 2},
		{name: "401", faults: []fault{{Status: 401}}, kind: user.SecretUnavailable, outcome: user.Refused, asked: 1},
		{name: "403", faults: []fault{{Status: 403}}, kind: user.SecretUnavailable, outcome: user.Refused, asked: 1},
		{name: "429, then right", faults: []fault{{Status: 429, RetryAfter: "0"}}, outcome: user.Stored, kept: kept, asked: 2},
		{name: "429, then refused", faults: []fault{{Status: 429}, {Status: 400}}, kind: user.SessionRefused, outcome: user.Refused, kept: kept, asked: 2},
		{name: "500, then right", faults: []fault{{Status: 500}, {Status: 503}}, outcome: user.Stored, kept: kept, asked: 3},
		{name: "500, then refused", faults: []fault{{Status: 500}, {Status: 400}}, kind: user.ExchangeUnknown, outcome: user.IndeterminateOutcome, kept: kept, asked: 2},
		{name: "500, then 401", faults: []fault{{Status: 500}, {Status: 401}}, kind: user.ExchangeUnknown, outcome: user.IndeterminateOutcome, kept: kept, asked: 2},
		{name: "dropped before", faults: []fault{{Kind: humanapitest.DropBefore}}, outcome: user.Stored, kept: kept, asked: 2},
		{name: "dropped after, one-time", faults: []fault{{Kind: humanapitest.DropAfter}}, kind: user.ExchangeUnknown, outcome: user.IndeterminateOutcome, kept: kept, asked: 2},
		{name: "dropped after, repeatable", mode: humanapitest.Repeatable, faults: []fault{{Kind: humanapitest.DropAfter}}, outcome: user.Stored, kept: kept, asked: 2},
		{name: "dropped after, rotating", mode: humanapitest.Rotating, faults: []fault{{Kind: humanapitest.DropAfter}}, outcome: user.Stored, kept: kept, asked: 2},
		{name: "truncated, repeatable", mode: humanapitest.Repeatable, faults: []fault{{Kind: humanapitest.Truncated}}, outcome: user.Stored, kept: kept, asked: 2},
		{name: "wrong user", faults: []fault{{Kind: humanapitest.WrongUser}}, kind: user.UserMismatch, outcome: user.Rejected, kept: kept, asked: 1},
		{name: "wrong app", faults: []fault{{Kind: humanapitest.WrongClient}}, kind: user.UpstreamInvalid, outcome: user.Rejected, kept: kept, asked: 1},
		{name: "no app", faults: []fault{{Kind: humanapitest.MissingField, Field: "clientId"}}, outcome: user.Stored, kept: kept, asked: 1},
		{name: "no user", faults: []fault{{Kind: humanapitest.MissingField, Field: "humanId"}}, kind: user.UpstreamInvalid, outcome: user.Rejected, kept: kept, asked: 1},
		{name: "no access token", faults: []fault{{Kind: humanapitest.MissingField, Field: "accessToken"}}, kind: user.UpstreamInvalid, outcome: user.Rejected, kept: kept, asked: 1},
		{name: "wrong type", faults: []fault{{Kind: humanapitest.WrongType, Field: "publicToken"}}, kind: user.UpstreamInvalid, outcome: user.Rejected, kept: kept, asked: 1},
		{name: "page", faults: []fault{{Kind: humanapitest.HTML}}, kind: user.ExchangeUnknown, outcome: user.IndeterminateOutcome, kept: kept, asked: 1},
		{name: "empty", faults: []fault{{Kind: humanapitest.Empty}}, kind: user.ExchangeUnknown, outcome: user.IndeterminateOutcome, kept: kept, asked: 1},
		{name: "not json", faults: []fault{{Kind: humanapitest.NotJSON}}, kind: user.ExchangeUnknown, outcome: user.IndeterminateOutcome, kept: kept, asked: 1},
		{name: "huge", faults: []fault{{Kind: humanapitest.Huge}}, kind: user.ExchangeUnknown, outcome: user.IndeterminateOutcome, kept: kept, asked: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if c.mode != "" {
				w.sim.SetMode(c.mode)
			}
			x := w.finish("marker-human", "marker-user")
			if c.unknown {
				x = w.event("marker-human", "marker-garbage-session")
			}
			for _, f := range c.faults {
				f.Path = humanapitest.TokensPath
				w.sim.Misbehave(f)
			}
			_, err := w.exchange(x)
			wantKind(t, err, c.kind)
			if got := w.b.Status().Outcomes[c.outcome]; got != 1 || w.asked() != c.asked {
				t.Errorf("outcome %s counted %d times after %d requests, want 1 after %d", c.outcome, got, w.asked(), c.asked)
			}
			if len(w.intents()) != 0 {
				t.Error("the intent is left")
			}
			if c.outcome == user.Stored {
				w.wantCurrent(x.HumanID)
			} else {
				w.wantNothing(x.HumanID)
			}
			r, err := w.exchange(x)
			if !c.kept {
				wantKind(t, err, "") // it was not the token that was refused
				w.wantCurrent(x.HumanID)
				return
			}
			wantKind(t, err, c.kind)
			if w.asked() != c.asked || r.Replayed != (c.kind == "") {
				t.Error("the repeat was not answered from the store")
			}
		})
	}
}

func TestIndeterminateIsRepaired(t *testing.T) {
	w := newWorld(t)
	w.sim.Misbehave(humanapitest.Fault{Path: humanapitest.TokensPath, Kind: humanapitest.Empty})
	ctx, human := context.Background(), user.HumanID("marker-human")
	_, err := w.exchange(w.finish(human, "marker-user"))
	wantKind(t, err, user.ExchangeUnknown)
	w.until("the repair in the audit log", func() bool { return len(w.events("note")) == 1 })
	p, err := w.store.Public(ctx, app, human)
	wantKind(t, err, "")
	if _, public := w.sim.Current(string(app), string(human)); p.State != user.Indeterminate || string(p.PublicToken) != public {
		t.Error("the user is not shown as indeterminate, or the public token was not fetched")
	}
	_, err = w.b.PublicToken(ctx, app, human, "request-p")
	wantKind(t, err, "")
	if n := w.sim.Count(humanapitest.PublicTokensPath); n != 2 {
		t.Errorf("in state indeterminate the stored public token was relied on (%d requests)", n)
	}
	_, err = w.exchange(w.finish(human, "marker-user"))
	wantKind(t, err, "")
	w.wantCurrent(human)
}

func TestExpectedClientUserID(t *testing.T) {
	const mine, other = "marker-user", "marker-somebody-else"
	null := humanapitest.Fault{Kind: humanapitest.SetField, Field: "clientUserId", Value: json.RawMessage("null")}
	absent := humanapitest.Fault{Kind: humanapitest.MissingField, Field: "clientUserId"}
	for _, c := range []struct {
		name           string
		fault          humanapitest.Fault
		expected, body user.ClientUserID
		kind           user.Failure
	}{
		{name: "expected", expected: mine},
		{name: "in the body", body: mine},
		{name: "both", expected: mine, body: mine},
		{name: "contradicted", expected: other, kind: user.UserMismatch},
		{name: "body contradicted", body: other, kind: user.UserMismatch},
		{name: "body lies, header right", expected: mine, body: other, kind: user.UserMismatch},
		{name: "absent and expected", fault: absent, expected: mine, kind: user.UserMismatch},
		{name: "null and expected", fault: null, expected: mine, kind: user.UserMismatch},
		{name: "absent and in the body", fault: absent, body: mine},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if c.fault.Kind != "" {
				w.sim.Misbehave(c.fault)
			}
			x := w.finish("marker-human", mine)
			x.Expected, x.ExpectedSet = c.expected, c.expected != ""
			x.BodyUserID, x.BodyUserIDSet = c.body, c.body != ""
			_, err := w.exchange(x)
			wantKind(t, err, c.kind)
			if c.kind == "" {
				w.wantCurrent(x.HumanID)
				return
			}
			w.wantNothing(x.HumanID)
			if w.b.Status().Outcomes[user.Rejected] != 1 || len(w.intents()) != 0 {
				t.Error("it did not end as rejected")
			}
			x.ExpectedSet, x.BodyUserIDSet = false, false
			_, err = w.exchange(x)
			wantKind(t, err, user.UserMismatch)
		})
	}
}

func TestKnownUserUnderAnotherClientUserID(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	_, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, "")
	before, err := w.store.Private(ctx, app, "marker-human")
	wantKind(t, err, "")
	_, err = w.exchange(w.finish("marker-human", "marker-somebody-else"))
	wantKind(t, err, user.UserMismatch)
	after, err := w.store.Private(ctx, app, "marker-human")
	wantKind(t, err, "")
	if after.Public != before.Public || !after.AccessToken.Equal(before.AccessToken) || w.b.Status().Outcomes[user.Rejected] != 1 {
		t.Error("a mismatch changed the record")
	}
}

func TestAmbiguous(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	_, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, "")
	p, err := w.store.ByClientUserID(ctx, app, "marker-user")
	wantKind(t, err, "")
	if p.HumanID != "marker-human" {
		t.Error("the index names somebody else")
	}
	_, err = w.exchange(w.finish("marker-other-human", "marker-user"))
	wantKind(t, err, "")
	w.wantCurrent("marker-other-human")
	_, err = w.store.ByClientUserID(ctx, app, "marker-user")
	wantKind(t, err, user.AmbiguousUser)
}
