package main

import (
	"fmt"
	"net/http"
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"
)

// field is one value that came in, and what it may be.
type field struct {
	name, value string
	most        int    // bytes; 0: no limit but the body's
	rule        string // what is wrong where ok is not true
	ok          func(string) bool
}

// check is the first thing that is wrong with a field.
func check(fields ...field) error {
	bad := func(f field, what string) error {
		return &problem{status: http.StatusBadRequest, sentence: f.name + " " + what}
	}
	for _, f := range fields {
		switch {
		case f.value == "":
			return bad(f, "is missing")
		// The JSON decoder puts a replacement character where there was no UTF-8.
		case strings.ContainsRune(f.value, utf8.RuneError):
			return bad(f, "is not valid UTF-8")
		case strings.ContainsFunc(f.value, unicode.IsControl):
			return bad(f, "holds a control character")
		case f.most > 0 && len(f.value) > f.most:
			return bad(f, fmt.Sprintf("is longer than %d bytes", f.most))
		case f.ok != nil && !f.ok(f.value):
			return bad(f, f.rule)
		}
	}
	return nil
}

func isUsername(s string) bool {
	if len(s) < 2 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// isEmail accepts an address alone, without a name, quotes or a comment.
func isEmail(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Address == s && a.Name == "" && !strings.ContainsAny(s, `"<>() `)
}

// isToken accepts what can stand in a header.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}
