package humanapitest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// member is one of a JSON object; value is raw.
type member struct {
	name  string
	value []byte
}

func text(name, value string) member {
	raw, _ := json.Marshal(value) // a string never fails
	return member{name, raw}
}

// compact writes an object without white space, as the real service does.
func compact(members []member) []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range members {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + m.name + `":`) // names may be wrong on purpose: as they are
		b.Write(m.value)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// status is what the answer is sent with; 0 when none is.
func status(f Fault, no refusal) int {
	switch {
	case f.Kind == DropAfter || f.Kind == DropBefore || f.Kind == NoHTTP || f.Kind == CutHead:
		return 0
	case f.Kind == Redirect:
		return cmp.Or(f.Status, http.StatusTemporaryRedirect)
	case f.Status != 0:
		return f.Status
	}
	return cmp.Or(no.status, http.StatusOK)
}

// answer is the body, spoiled as f says where that is a matter of the body.
func (s *Server) answer(path string, in map[string]string, p person, f Fault, no refusal) []byte {
	code := status(f, no)
	switch {
	case f.Kind == Empty:
		return nil
	case f.Kind == HTML:
		return []byte("<!DOCTYPE html><html><head><title>simulated page</title></head><body>simulated</body></html>\n")
	case no.status != 0 || code >= 300:
		message := cmp.Or(f.Message, no.message, "Simulated "+strconv.Itoa(code))
		return compact([]member{text("message", message), {"statusCode", strconv.AppendInt(nil, int64(code), 10)}})
	}
	body := compact(spoil(s.members(path, in, p), f))
	if f.Kind == NotJSON {
		body = append(body[:len(body)-1], ",}"...)
	}
	return body
}

// members are those of a right answer, in the real one's order.
func (s *Server) members(path string, in map[string]string, p person) []member {
	if path == PublicTokensPath {
		return []member{text("humanId", in["humanId"]), text("publicToken", p.publicToken)}
	}
	m := []member{text("humanId", in["humanId"]), text("accessToken", p.accessToken), text("publicToken", p.publicToken)}
	if !s.cfg.OmitClientID {
		m = append(m, text("clientId", in["clientId"]))
	}
	switch {
	case s.cfg.OmitClientUserID:
	case p.clientUserID != "":
		m = append(m, text("clientUserId", p.clientUserID))
	case s.cfg.NullClientUserID:
		m = append(m, member{"clientUserId", []byte("null")})
	}
	return m
}

// spoil changes the members as f says.
func spoil(members []member, f Fault) []member {
	switch f.Kind {
	case WrongUser:
		return set(members, text("humanId", "sim-other-human-xxxxxxxxxxxxxxxx"))
	case WrongClient:
		return set(members, text("clientId", "sim-other-client-xxxxxxxxxxxxxxxxxxxxxxx"))
	case WrongType:
		return set(members, member{f.Field, []byte("12345")})
	case SetField:
		return set(members, member{f.Field, f.Value})
	case Huge:
		return append([]member{text("padding", strings.Repeat("x", 1<<20))}, members...)
	}
	var out []member
	for _, m := range members {
		if f.Kind == MissingField && m.name == f.Field {
			continue
		}
		out = append(out, m)
		if f.Kind == DoubleField && m.name == f.Field {
			if f.Value != nil {
				m.value = f.Value
			}
			out = append(out, m)
		}
	}
	return out
}

// set replaces a member, or adds it.
func set(members []member, m member) []member {
	for i := range members {
		if members[i].name == m.name {
			members[i] = m
			return members
		}
	}
	return append(members, m)
}
