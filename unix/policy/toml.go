package policy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tokenvault/tokenvault/unix/api"
)

// TOML is the rule as a [[rule]] of the configuration. What is empty is left out.
func (r Rule) TOML() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[[rule]]\nname   = %s\n", quoted(r.Name))
	list(&b, "users ", r.Users, number)
	list(&b, "groups", r.Groups, number)
	list(&b, "units ", r.Units, quoted[string])
	if r.Contained {
		b.WriteString("contained = true\n")
	}
	list(&b, "apps  ", names(r.Apps), quoted[string])
	list(&b, "grants", r.Grants, quoted[api.Grant])
	list(&b, "paths ", r.Paths, quoted[string])
	if r.PerSecond > 0 {
		fmt.Fprintf(&b, "rate   = { per_second = %s", strconv.FormatFloat(r.PerSecond, 'f', -1, 64))
		if r.Burst > 0 {
			fmt.Fprintf(&b, ", burst = %d", r.Burst)
		}
		b.WriteString(" }\n")
	}
	return b.String()
}

func list[T any](b *strings.Builder, key string, items []T, text func(T) string) {
	if len(items) == 0 {
		return
	}
	var out []string
	for _, v := range items {
		out = append(out, text(v))
	}
	fmt.Fprintf(b, "%s = [%s]\n", key, strings.Join(out, ", "))
}

func number(id uint32) string { return strconv.FormatUint(uint64(id), 10) }

// quoted is a basic string (TOML 1.0, "String"): quotes, backslashes and control
// characters are escaped, and what is not UTF-8 is replaced.
func quoted[S ~string](s S) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range strings.ToValidUTF8(string(s), "\uFFFD") {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
