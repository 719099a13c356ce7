package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sealmesh/sealmesh/capability"
)

// writeJSON writes one document and a line break: indented, or on one line.
func writeJSON(w io.Writer, doc any, indent bool) error {
	enc := json.NewEncoder(escaping{w})
	enc.SetEscapeHTML(false)
	if indent {
		enc.SetIndent("", "  ")
	}
	return enc.Encode(doc)
}

// show prints doc, or what text writes for people.
func (a *app) show(doc any, text func(w io.Writer)) error {
	if a.json {
		return writeJSON(a.stdout, doc, true)
	}
	var b strings.Builder
	text(&b)
	_, err := io.WriteString(a.stdout, b.String())
	return err
}

// table aligns rows of cells.
func table(w io.Writer, rows ...[]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t")) //nolint:errcheck // a strings.Builder takes everything
	}
	t.Flush() //nolint:errcheck // likewise
}

// clean makes foreign text safe for a terminal and one line: what cannot be
// printed could move the cursor, or rewrite what was said before.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

// payload is the data of a message in JSON: text where it is text, else base64.
type payload struct {
	Data    *string `json:"data,omitempty"`
	DataB64 *string `json:"data_b64,omitempty"`
}

func payloadOf(data []byte) payload {
	if utf8.Valid(data) {
		s := string(data)
		return payload{Data: &s}
	}
	s := base64.StdEncoding.EncodeToString(data)
	return payload{DataB64: &s}
}

// isTerminal reports whether a person looks at w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// when prints a time for people; nil and zero times are nothing.
func when(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// names joins scopes for people.
func names(scopes []capability.Scope) string {
	list := make([]string, len(scopes))
	for i, s := range scopes {
		list[i] = s.String()
	}
	return listed(list)
}

func listed(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return clean(strings.Join(list, ", "))
}

// some replaces a missing list by an empty one, which programs can walk.
func some[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
