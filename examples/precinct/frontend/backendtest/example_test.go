package backendtest_test

import (
	"fmt"
	"net/http/httptest"
	"strings"

	"github.com/org/spire-vault-99-action/examples/precinct/frontend/backendtest"
)

// The fake answers as the backend does, without its mTLS.
func ExampleNew() {
	fake := backendtest.New()
	for _, password := range []string{"guess", "jake-precinct99"} {
		w := httptest.NewRecorder()
		body := strings.NewReader(`{"username":"jake","password":"` + password + `"}`)
		fake.ServeHTTP(w, httptest.NewRequest("POST", "/api/auth/login", body))
		fmt.Println(w.Code)
	}
	// Output:
	// 401
	// 200
}
