package meshdir

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/template"
	"time"

	"github.com/goccy/go-yaml"
)

//go:embed sealmesh.yaml.tmpl
var source string

// maxFile is the longest sealmesh.yaml in bytes.
const maxFile = 64 << 10

// text writes the configuration with its comments.
func (c Config) text() ([]byte, error) {
	t, err := template.New(ConfigFile).Funcs(template.FuncMap{"q": quote, "short": short}).Parse(source)
	if err != nil {
		return nil, fmt.Errorf("meshdir: template: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, c); err != nil {
		return nil, fmt.Errorf("meshdir: %w", err)
	}
	return out.Bytes(), nil
}

// quote writes s as a double-quoted YAML string, of which JSON's are a subset.
func quote(s string) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// short writes a duration without the zeros at its end: 720h, not 720h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// parse reads sealmesh.yaml; path is for errors.
func parse(path string, text []byte) (Config, error) {
	if len(text) > maxFile {
		return Config{}, &Error{Path: path, Problem: fmt.Sprintf("longer than %d bytes", maxFile)}
	}
	c := defaults()
	dec := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := dec.Decode(&c); errors.Is(err, io.EOF) {
		return Config{}, &Error{Path: path, Problem: "is empty"}
	} else if err != nil {
		return Config{}, explain(path, err)
	}
	// A second document would be ignored, and somebody meant something by it.
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return Config{}, &Error{Path: path, Problem: "holds more than one YAML document"}
	}
	if len(c.NATS.Servers) == 0 {
		c.NATS.single()
	}
	if err := c.check(); err != nil {
		return Config{}, &Error{Path: path, Problem: err.Error(), cause: err}
	}
	return c, nil
}

// explain says in one line what the YAML library found.
func explain(path string, err error) error {
	e := &Error{Path: path, cause: err}
	var y yaml.Error
	if !errors.As(err, &y) {
		e.Problem = err.Error()
		e.hint = hintFor(e.Problem)
		return e
	}
	e.Problem = y.GetMessage()
	tok := y.GetToken()
	if tok != nil && tok.Position != nil {
		e.Line = tok.Position.Line
	}
	var unknown *yaml.UnknownFieldError
	if errors.As(err, &unknown) && tok != nil {
		e.Problem = fmt.Sprintf("unknown key %q", clip(tok.Value))
		if near := nearestKey(tok.Value); near != "" {
			e.hint = fmt.Sprintf("did you mean %q?", near)
		} else {
			e.hint = "remove it; the comments in the file that sealmesh init writes name all keys"
		}
		return e
	}
	e.hint = hintFor(e.Problem)
	return e
}

func hintFor(problem string) string {
	if strings.Contains(strings.ToLower(problem), "duration") {
		return "durations are written as 30s, 5m or 1h"
	}
	return ""
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
