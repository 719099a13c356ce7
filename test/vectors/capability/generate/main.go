// Command generate writes the test vectors of capability chains. Its output
// depends on nothing but itself: keys come from labelled seeds, times are fixed,
// and the documents are encoded and signed here, without the packages that the
// vectors are for.
//
//	go run ./test/vectors/capability/generate [-to DIR]
package main

import "github.com/sealmesh/sealmesh/test/vectors/files"

func main() { files.Main("capability", made) }

// made is every file, by its path.
func made() map[string][]byte { return all().files() }

// all makes every vector.
func all() *book {
	b := new(book)
	b.valid()
	b.documents()
	b.integers()
	b.scopes()
	b.signingKeys()
	b.lists()
	b.trust()
	b.passports()
	b.tokens()
	b.chains()
	b.window()
	b.signatures()
	b.order()
	b.standing()
	return b
}
