package service

import (
	"encoding/json"
	"net/http"
)

// JSON answers with a value. Answers are about who asks, so nobody may keep them.
func JSON(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client went away
}

// Error answers with one clear sentence and the request's ID, by which the log is
// searched.
func Error(w http.ResponseWriter, r *http.Request, status int, sentence string) {
	JSON(w, status, map[string]string{"error": sentence, "request_id": RequestID(r.Context())})
}
