package meshfile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/sealmesh/sealmesh/internal/nearest"
)

// entry is one key of a mapping with its value.
type entry struct {
	key   string
	at    *token.Token // the key
	value ast.Node
}

// mapping reads the entries of a mapping. Double keys are refused: which of the
// two counts nobody sees.
func mapping(n ast.Node, key *token.Token) ([]entry, *Error) {
	m, ok := n.(ast.MapNode)
	if !ok {
		return nil, kindError(n, key, "a mapping", "{}")
	}
	var out []entry
	first := map[string]int{}
	for i := m.MapRange(); i.Next(); {
		k, ok := i.Key().(*ast.StringNode)
		if !ok {
			return nil, at(i.Key().GetToken(), "put it in quotes", "key %q is not text", clip(i.Key().GetToken().Value))
		}
		e := entry{k.Value, k.GetToken(), i.Value()}
		if line, ok := first[e.key]; ok {
			return nil, at(e.at, "", "key %q is there twice, first in line %d", clip(e.key), line)
		}
		first[e.key] = e.at.Position.Line
		out = append(out, e)
	}
	return out, nil
}

// section reads a mapping whose keys are all known. Those that somebody may look
// for here and that stand elsewhere are explained.
func section(n ast.Node, key *token.Token, known []string, elsewhere map[string]string) (map[string]entry, *Error) {
	list, err := mapping(n, key)
	if err != nil {
		return nil, err
	}
	out := map[string]entry{}
	for _, e := range list {
		if !slices.Contains(known, e.key) {
			hint := elsewhere[e.key]
			if hint == "" {
				hint = "remove it; there are " + strings.Join(known, ", ")
			}
			if near := nearest.Of(e.key, known); near != "" && elsewhere[e.key] == "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			return nil, at(e.at, hint, "unknown key %q", clip(e.key))
		}
		out[e.key] = e
	}
	return out, nil
}

// texts reads a list of texts, each at its token.
func (e entry) texts() ([]text, *Error) {
	n, ok := e.value.(*ast.SequenceNode)
	if !ok {
		return nil, kindError(e.value, e.at, "a list", "[]")
	}
	var out []text
	for _, v := range n.Values {
		t, err := textOf(v, e.at, "an entry of "+e.key)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o text) bool { return o.s == t.s }) {
			return nil, at(t.at, "", "%s lists %q twice", e.key, clip(t.s))
		}
		out = append(out, t)
	}
	return out, nil
}

// text is a text and where it stands.
type text struct {
	s  string
	at *token.Token
}

func (e entry) text() (text, *Error) { return textOf(e.value, e.at, e.key) }

// textOf takes texts only. What YAML reads as a number, as true or as nothing is
// meant as text here and there, and each reader makes something else of it.
func textOf(n ast.Node, key *token.Token, what string) (text, *Error) {
	switch n := n.(type) {
	case *ast.StringNode:
		return text{n.Value, n.GetToken()}, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return text{}, at(n.GetToken(), "put it in quotes", "%s must be text, and %q is not to every reader", clip(what), clip(n.GetToken().Value))
	}
	return text{}, kindError(n, key, clip(what)+" as one text", "")
}

// number reads a whole number from least to most.
func (e entry) number(least, most int) (int, *Error) {
	n, ok := e.value.(*ast.IntegerNode)
	if !ok {
		return 0, kindError(e.value, e.at, "a number", "")
	}
	s := n.GetToken().Value
	v, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(v) != s { // 010 is eight to some readers
		return 0, at(n.GetToken(), "", "%s: %q is not a number in plain digits", e.key, clip(s))
	}
	if v < least || v > most {
		return 0, at(n.GetToken(), "", "%s must be %d to %d, not %d", e.key, least, most, v)
	}
	return v, nil
}

func (e entry) boolean() (bool, *Error) {
	if n, ok := e.value.(*ast.BoolNode); ok {
		switch n.GetToken().Value {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
	}
	return false, kindError(e.value, e.at, "true or false", "")
}

// duration reads a duration of whole seconds.
func (e entry) duration(most time.Duration) (time.Duration, *Error) {
	t, err := e.text()
	if err != nil {
		return 0, err
	}
	const hint = "durations are written as 30s, 5m or 24h"
	d, bad := time.ParseDuration(t.s)
	if bad != nil {
		return 0, at(t.at, hint, "%s: %q is not a duration", e.key, clip(t.s))
	}
	if d < time.Second || d > most || d%time.Second != 0 {
		return 0, at(t.at, hint, "%s must be 1s to %s in whole seconds, not %s", e.key, short(most), d)
	}
	return d, nil
}

// kindError says that something else was expected; a key with nothing after it
// may be an entry whose lines were all commented out, and is not taken for an
// empty one.
func kindError(n ast.Node, key *token.Token, want, empty string) *Error {
	if n == nil || n.Type() == ast.NullType {
		name := "the file"
		if key != nil {
			name = strconv.Quote(clip(key.Value))
		}
		hint := ""
		if empty != "" {
			hint = "write " + empty + " where nothing is meant"
		}
		return at(key, hint, "%s has no value", name)
	}
	if key == nil {
		return at(n.GetToken(), "", "the file is not %s", want)
	}
	return at(n.GetToken(), "", "%q is not %s", clip(key.Value), want)
}
