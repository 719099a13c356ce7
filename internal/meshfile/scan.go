package meshfile

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxFile is the longest file in bytes.
const MaxFile = 1 << 20

// What a file may have at most. The YAML parser's time grows with the square of
// how deep a file nests and of how many keys one mapping has, so that a file of
// a megabyte could keep it busy for a minute; these are looked at before it is
// asked. Nothing that the format has nests deeper than four.
const (
	maxNesting = 8
	maxIndent  = 64
	maxKeys    = 1 << 15
)

// document reads text as the one YAML document that it must be.
func document(text []byte) (ast.Node, *Error) {
	if len(text) > MaxFile {
		return nil, &Error{Problem: fmt.Sprintf("longer than %d bytes", MaxFile)}
	}
	if err := checkText(string(text)); err != nil {
		return nil, err
	}
	tokens := lexer.Tokenize(string(text))
	if t := tokens.InvalidToken(); t != nil {
		return nil, at(t, "", "%s", clip(t.Error))
	}
	if err := checkTokens(tokens); err != nil {
		return nil, err
	}
	f, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // found when the mapping is read
	if err != nil {
		return nil, syntax(err)
	}
	if len(f.Docs) != 1 || f.Docs[0].Body == nil {
		return nil, &Error{Problem: "is empty", hint: "sealmesh export writes what there is"}
	}
	return f.Docs[0].Body, nil
}

// checkText refuses what is not plain text: invisible characters would show a
// reviewer something else than what is read.
func checkText(text string) *Error {
	for i, line := range strings.Split(text, "\n") {
		bad := func(format string, args ...any) *Error {
			return &Error{Line: i + 1, Problem: fmt.Sprintf(format, args...)}
		}
		if !utf8.ValidString(line) {
			return bad("is not UTF-8 text")
		}
		for _, r := range strings.TrimSuffix(line, "\r") {
			if r == '\t' {
				return &Error{Line: i + 1, Problem: "has a tab", hint: "YAML is indented with spaces"}
			}
			if r < ' ' || r == 0x7f || invisible(r) {
				return bad("has the invisible character %U", r)
			}
		}
		if indent := len(line) - len(strings.TrimLeft(line, " ")); indent > maxIndent && indent < len(line) {
			return bad("is indented by more than %d spaces", maxIndent)
		}
	}
	return nil
}

// invisible reports whether r cannot be seen or changes the order in which what
// is around it is shown.
func invisible(r rune) bool {
	switch {
	case 0x80 <= r && r <= 0x9f, r == 0xad, r == 0x61c, 0x200b <= r && r <= 0x200f, 0x2028 <= r && r <= 0x202e,
		0x2060 <= r && r <= 0x206f, r == 0xfeff, 0xe0000 <= r && r <= 0xe007f:
		return true
	}
	return false
}

// checkTokens refuses the parts of YAML that a list of rights does not need, and
// what nests too deep.
func checkTokens(tokens token.Tokens) *Error {
	depth, keys, line, entries := 0, 0, 0, 0
	for i, t := range tokens {
		if t.Position.Line != line {
			line, entries = t.Position.Line, 0
		}
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return at(t, "write out what it stands for", "has an anchor or alias, which are not allowed here")
		case token.TagType, token.DirectiveType:
			return at(t, "", "has a tag or directive, which are not allowed here")
		case token.LiteralType, token.FoldedType, token.MappingKeyType:
			return at(t, "", "has %q, which is not allowed here", clip(t.Value))
		case token.DocumentHeaderType, token.DocumentEndType:
			if i > 0 {
				return at(t, "", "holds more than one YAML document")
			}
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType:
			entries++
		case token.MappingValueType:
			keys++
			if glued(tokens, i) {
				return at(t, "put quotes around a text with a colon here, or a space behind the colon of a key", "has a colon with nothing around it inside of braces")
			}
		}
		if depth > maxNesting || entries > maxNesting {
			return at(t, "", "nests too deep")
		}
		if keys > maxKeys {
			return at(t, "", "has more than %d keys", maxKeys)
		}
	}
	return nil
}

// glued reports whether the colon at i parts two words without a space, as the
// library does inside of braces and YAML does not: {call: [read:logs]} would be
// the word logs under the key read. Behind a quoted key, as in JSON, it is plain
// what is meant.
func glued(tokens token.Tokens, i int) bool {
	if i == 0 || i+1 == len(tokens) {
		return false
	}
	before, colon, after := tokens[i-1], tokens[i].Position, tokens[i+1].Position
	return before.Type != token.SingleQuoteType && before.Type != token.DoubleQuoteType &&
		after.Line == colon.Line && after.Column == colon.Column+1
}
