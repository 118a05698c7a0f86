package e2e

import (
	"net/url"
	"strings"
	"sync"
	"testing"
)

// The main job: each way to send a sessionTokenObject gives the public part.
func TestExchange(t *testing.T) {
	w := newWorld(t, options{})
	web := w.web("public")
	ways := map[string]func(sto) answer{
		"json":    func(s sto) answer { return web.do("POST", tokens, s.json(), "-H", jsonType) },
		"no type": func(s sto) answer { return web.do("POST", tokens, s.json(), "-H", "Content-Type:") },
		"form":    func(s sto) answer { return web.do("POST", tokens, s.form()) }, // curl's default type
		"nested json": func(s sto) answer {
			return web.do("POST", tokens, `{"sessionTokenObject":`+s.json()+`}`, "-H", jsonType)
		},
		"nested form": func(s sto) answer { return web.do("POST", tokens, nested(s), "-H", formType) },
	}
	for name, send := range ways {
		t.Run(name, func(t *testing.T) {
			human := w.sim.NewHumanID()
			s := w.finishEvent(human, name+"@example.test")
			before := w.sim.Count(tokens)
			first := send(s).want(t, 200, "")
			_, public := w.sim.Current(shop, human)
			for field, want := range map[string]string{"humanId": human, "publicToken": public, "clientId": shop, "clientUserId": name + "@example.test"} {
				if first.field(t, field) != want {
					t.Errorf("%s is not what Human API said", field)
				}
			}
			if strings.Contains(strings.ToLower(first.body), "accesstoken") {
				t.Error("the answer has an accessToken")
			}
			if again := send(s).want(t, 200, ""); again.body != first.body {
				t.Error("the same session token again is answered otherwise")
			}
			if n := w.sim.Count(tokens) - before; n != 1 {
				t.Errorf("Human API was asked %d times", n)
			}
		})
	}
}

func nested(s sto) string {
	v := url.Values{}
	for field, value := range map[string]string{"humanId": s.humanID, "clientId": s.clientID, "sessionToken": s.sessionToken} {
		v.Set("sessionTokenObject["+field+"]", value)
	}
	v.Set("user_id", "7")
	return v.Encode()
}

// 100 callers post the same session token at the same moment.
func TestOneExchangeForManyCallers(t *testing.T) {
	w := newWorld(t, options{})
	s := w.finishEvent(w.sim.NewHumanID(), "many@example.test")
	root := w.root("public")
	answers := make([]answer, 100)
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			<-start
			var err error
			if answers[i], err = root.try("POST", tokens, s.json(), jsonType); err != nil {
				answers[i].body = "no answer"
			}
		})
	}
	close(start)
	all.Wait()
	for i, a := range answers {
		if a.status != 200 || a.body != answers[0].body {
			t.Fatalf("caller %d: status %d, or another answer than the first", i, a.status)
		}
	}
	if n := w.sim.Count(tokens); n != 1 {
		t.Fatalf("Human API was asked %d times", n)
	}
	t.Logf("figure: %d callers with one session token: asked once, %d equal answers", len(answers), len(answers))
}
