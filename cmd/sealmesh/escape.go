package main

import (
	"bytes"
	"fmt"
	"io"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// escaping writes what a terminal might act upon in JSON as \uXXXX. The encoder
// leaves some of it as it is: the second set of control characters, which begin
// sequences as ESC does, and marks that reverse the order of the text after them.
// What is not ASCII stands in strings only, so a document says the same. Each write
// is a whole document.
type escaping struct{ w io.Writer }

func (e escaping) Write(doc []byte) (int, error) {
	if _, err := e.w.Write(escaped(doc)); err != nil {
		return 0, err
	}
	return len(doc), nil
}

func escaped(doc []byte) []byte {
	if !bytes.ContainsFunc(doc, unprintable) {
		return doc
	}
	out := make([]byte, 0, len(doc)+64)
	for len(doc) > 0 {
		r, n := utf8.DecodeRune(doc)
		switch {
		case !unprintable(r):
			out = append(out, doc[:n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		doc = doc[n:]
	}
	return out
}

// unprintable reports whether a character of an encoded document is to be escaped.
// Below U+0020 there are only the line breaks and spaces between its parts.
func unprintable(r rune) bool { return r > ' ' && r != utf8.RuneError && !unicode.IsPrint(r) }
