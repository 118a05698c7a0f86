package humanapitest

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// refusal is an error answer; its zero value is none.
type refusal struct {
	status  int
	message string
}

// Handler serves the two endpoints, and the control endpoints under /sim/. It
// works without Open.
func (s *Server) Handler() http.Handler {
	control := s.control()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/sim/") {
			control.ServeHTTP(w, r)
			return
		}
		s.serve(w, r)
	})
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.arrive(r.URL.Path)
	rec := Request{Time: s.cfg.Now(), Method: r.Method, Path: r.URL.Path, RemoteAddr: r.RemoteAddr, Host: r.Host,
		Headers: headerNames(r.Header), ContentType: r.Header.Get("Content-Type")}
	in, no := readBody(r)
	rec.Fields = in
	f := s.fault(r.URL.Path, in)
	rec.Fault = f.Kind

	s.wait(f.Delay, f.Hold, r.Context().Done())
	var p person
	if no.status == 0 {
		p, no = s.act(r, in, f.effect())
	}
	rec.Effect = no.status == 0 && f.effect()
	rec.Reason = no.message
	rec.Status = status(f, no)
	s.record(rec)
	s.wait(f.DelayAnswer, f.HoldAnswer, r.Context().Done())

	s.write(w, r, f, rec.Status, s.answer(r.URL.Path, in, p, f, no))
}

// act carries the request out, or refuses it. Without effect it only looks
// whether it would be refused for its sender.
func (s *Server) act(r *http.Request, in map[string]string, effect bool) (person, refusal) {
	needed := map[string][]string{
		TokensPath:       {"humanId", "clientId", "sessionToken", "clientSecret"},
		PublicTokensPath: {"humanId", "clientId", "clientSecret"},
	}[r.URL.Path]
	if needed == nil || r.Method != http.MethodPost {
		return person{}, refusal{http.StatusNotFound, "Not found"}
	}
	for _, name := range needed {
		if in[name] == "" {
			return person{}, refusal{http.StatusBadRequest, "Missing " + name}
		}
	}
	if !s.known(in["clientId"], in["clientSecret"]) {
		return person{}, refusal{http.StatusUnauthorized, "Invalid client credentials"}
	}
	if r.URL.Path == PublicTokensPath {
		return s.look(in)
	}
	if !effect {
		return pretend, refusal{}
	}
	return s.use(in)
}

// readBody takes a JSON object or, on publictokens, a form. Members that are no
// strings are left out, and unknown ones kept for the record.
func readBody(r *http.Request) (map[string]string, refusal) {
	bad := refusal{http.StatusBadRequest, "Bad request"}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20+1))
	if err != nil || len(body) > 1<<20 {
		return nil, bad
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case kind == "application/x-www-form-urlencoded" && r.URL.Path == PublicTokensPath:
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, bad
		}
		in := make(map[string]string, len(form))
		for k := range form {
			in[k] = form.Get(k)
		}
		return in, refusal{}
	case kind == "application/json":
		var members map[string]any
		if json.NewDecoder(bytes.NewReader(body)).Decode(&members) != nil {
			return nil, bad
		}
		in := make(map[string]string, len(members))
		for k, v := range members {
			if text, ok := v.(string); ok {
				in[k] = text
			}
		}
		return in, refusal{}
	}
	return nil, refusal{http.StatusBadRequest, "Unsupported content type"}
}

func headerNames(h http.Header) []string {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
