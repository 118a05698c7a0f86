package cli

import "strings"

// wrap breaks a text into indented lines of at most 76 characters.
func wrap(text string) string {
	const width = 76
	var out strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		switch {
		case column == 0:
			out.WriteString("    ")
			column = 4
		case column+1+len(word) > width:
			out.WriteString("\n    ")
			column = 4
		default:
			out.WriteString(" ")
			column++
		}
		out.WriteString(word)
		column += len(word)
	}
	return out.String()
}
