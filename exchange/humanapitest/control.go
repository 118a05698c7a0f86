package humanapitest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

// control serves what a program needs that only has the URL:
//
//	POST   /sim/sessions {clientId, humanId?, clientUserId?} → {humanId, clientId, sessionToken}
//	POST   /sim/faults   a Fault with lower-case names, durations as Go writes them ("1.5s") → 204
//	DELETE /sim/faults   → 204
//	POST   /sim/secrets  {clientId, clientSecret} → 204; an empty secret removes the app
//	GET    /sim/stats    → {"counts": {path: requests that have arrived}}
func (s *Server) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /sim/sessions", s.controlSession)
	mux.HandleFunc("POST /sim/faults", s.controlFault)
	mux.HandleFunc("DELETE /sim/faults", func(w http.ResponseWriter, _ *http.Request) {
		s.ClearFaults()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /sim/secrets", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ ClientID, ClientSecret string }
		if decode(w, r, &in) {
			s.RotateSecret(in.ClientID, in.ClientSecret)
			w.WriteHeader(http.StatusNoContent)
		}
	})
	mux.HandleFunc("GET /sim/stats", func(w http.ResponseWriter, _ *http.Request) {
		encode(w, map[string]any{"counts": s.Counts()})
	})
	return mux
}

func (s *Server) controlSession(w http.ResponseWriter, r *http.Request) {
	var in struct{ ClientID, HumanID, ClientUserID string }
	if !decode(w, r, &in) {
		return
	}
	if in.HumanID == "" {
		in.HumanID = s.NewHumanID()
	}
	encode(w, map[string]string{"humanId": in.HumanID, "clientId": in.ClientID,
		"sessionToken": s.NewSession(in.ClientID, in.HumanID, in.ClientUserID)})
}

func (s *Server) controlFault(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Path, ClientID, HumanID    string
		Times                      int
		Permanent                  bool
		Kind                       Kind
		Status                     int
		RetryAfter, Message, Field string
		Value                      json.RawMessage
		Location                   string
		Delay, DelayAnswer         string
		TakesEffect, NoEffect      bool
	}
	if !decode(w, r, &in) {
		return
	}
	if in.Kind != None && !slices.Contains(Kinds, in.Kind) {
		http.Error(w, fmt.Sprintf("a kind: one of %q", Kinds), http.StatusBadRequest)
		return
	}
	f := Fault{Path: in.Path, ClientID: in.ClientID, HumanID: in.HumanID, Times: in.Times, Permanent: in.Permanent,
		Kind: in.Kind, Status: in.Status, RetryAfter: in.RetryAfter, Message: in.Message, Field: in.Field, Value: in.Value,
		Location: in.Location, TakesEffect: in.TakesEffect, NoEffect: in.NoEffect}
	for _, d := range []struct {
		text string
		to   *time.Duration
	}{{in.Delay, &f.Delay}, {in.DelayAnswer, &f.DelayAnswer}} {
		var err error
		if d.text == "" {
			continue
		}
		if *d.to, err = time.ParseDuration(d.text); err != nil {
			http.Error(w, fmt.Sprintf("a duration: %v", err), http.StatusBadRequest)
			return
		}
	}
	s.Misbehave(f)
	w.WriteHeader(http.StatusNoContent)
}

// decode reads a control request of at most 1 MiB; names may have any case, and
// unknown ones are errors, so that a mistyped fault is not one that does nothing.
func decode(w http.ResponseWriter, r *http.Request, to any) bool {
	d := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		http.Error(w, fmt.Sprintf("a control request: %v", err), http.StatusBadRequest)
		return false
	}
	return true
}

func encode(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(v)
}
