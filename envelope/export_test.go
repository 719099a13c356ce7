package envelope

// What the tests and benchmarks of the format need beside the API.

func Decode(text string) (Fields, error) { return decode(text) }

func Encode(f Fields) string { return string(appendText(nil, &f)) }

func SignedBytes(trustDomain, subject, text string, payload []byte, request *Digest) []byte {
	return appendSigned(nil, trustDomain, subject, text, payload, request)
}
