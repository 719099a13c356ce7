// Command generate writes the test vectors of sealed payloads. Its output depends
// on nothing but itself: keys and what would be random come from labels, and HPKE
// is done here by RFC 9180, without the package that the vectors are for and
// without the library that it uses.
//
//	go run ./test/vectors/sealed/generate [-to DIR]
package main

import "github.com/sealmesh/sealmesh/test/vectors/files"

func main() { files.Main("sealed", made) }

// made is every file, by its path.
func made() map[string][]byte { return all().files() }

// all makes every vector.
func all() *book {
	b := new(book)
	b.valid()
	b.layout()
	b.recipients()
	b.bindings()
	b.wrapping()
	b.content()
	return b
}
