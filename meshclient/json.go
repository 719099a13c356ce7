package meshclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// jsonType is the content type of JSON.
const jsonType = "application/json"

// JSON decodes the payload of a request into v. What is wrong with it is an
// [Error] with the code invalid, so that a handler may return it as it is.
func (r *Request) JSON(v any) error {
	if err := readJSON(r.ContentType, r.Data, v); err != nil {
		return &Error{Code: CodeInvalid, Message: err.Error()}
	}
	return nil
}

// JSON decodes an answer into v.
func (r *Reply) JSON(v any) error {
	if err := readJSON(r.ContentType, r.Data, v); err != nil {
		return fmt.Errorf("meshclient: answer of %s: %w", r.From, err)
	}
	return nil
}

// CallJSON calls with a JSON value and decodes the answer, which must be one JSON
// value too. Members that Out does not have are passed over, since the two sides
// are not updated at once; another content type, and anything after the value, is
// an error.
func CallJSON[Out any](ctx context.Context, m *Mesh, scope string, in any, opts ...CallOption) (out Out, err error) {
	data, err := json.Marshal(in)
	if err != nil {
		return out, fmt.Errorf("meshclient: request: %w", err)
	}
	reply, err := m.Call(ctx, scope, data, append(opts[:len(opts):len(opts)], ContentType(jsonType))...)
	if err != nil {
		return out, err
	}
	err = reply.JSON(&out)
	return out, err
}

// HandleJSON makes a Handler of a function on JSON values, by the rules of
// [CallJSON]: a payload that does not fit In is answered with the code invalid.
func HandleJSON[In, Out any](fn func(ctx context.Context, req *Request, in In) (Out, error)) Handler {
	return func(ctx context.Context, req *Request) ([]byte, error) {
		var in In
		if err := req.JSON(&in); err != nil {
			return nil, err
		}
		out, err := fn(ctx, req, in)
		if err != nil {
			return nil, err
		}
		req.answers = jsonType
		return json.Marshal(out)
	}
}

// readJSON reads exactly one value. What it says of a bad one repeats nothing of it.
func readJSON(contentType string, data []byte, into any) error {
	if contentType != jsonType {
		return fmt.Errorf("content type %q is not %s", contentType, jsonType)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && wrong.Field != "" {
			return fmt.Errorf("JSON does not fit at byte %d", wrong.Offset)
		}
		return fmt.Errorf("payload is no JSON of the form that is expected")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}
