// Command generate writes the test vectors of the envelope. Its output depends on
// nothing but itself: keys come from labelled seeds, times and IDs are fixed, and
// messages are encoded and signed here, without the packages that the vectors are
// for.
//
//	go run ./test/vectors/envelope/generate [-to DIR]
package main

import "github.com/sealmesh/sealmesh/test/vectors/files"

func main() { files.Main("envelope", made) }

// made is every file, by its path.
func made() map[string][]byte { return all().files() }

// all makes every vector.
func all() *book {
	b := new(book)
	b.valid()
	b.headers()
	b.fields()
	b.signedBytes()
	b.signatures()
	b.curve()
	b.application()
	b.limits()
	b.subjects()
	b.times()
	b.standing()
	b.authority()
	b.nonces()
	b.streams()
	b.bodies()
	b.stored()
	b.order()
	return b
}
