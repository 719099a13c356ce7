package capability

import "strings"

// UpTo returns the text of the chain as it was when it had n tokens: what the
// holder of the last of them delegated from. It is the whole text where the chain
// has no more than n, and empty where n is less than one. As a part of a verified
// chain it verifies itself.
func (c *Chain) UpTo(n int) string {
	if c == nil || n < 1 {
		return ""
	}
	text := c.text
	for i, at := 0, 0; ; i++ {
		next := strings.Index(text[at:], separator)
		if next < 0 {
			return text
		}
		if i == 2*(n-1) {
			return text[:at+next]
		}
		at += next + len(separator)
	}
}
