// Package attest says what a run proved as an in-toto statement with the predicate
// test-result (https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md),
// for whoever signs and checks such statements. It is not part of package report, which
// needs the standard library alone.
package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	testresult "github.com/in-toto/attestation/go/predicates/test_result/v0"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// PredicateType is that of the statements.
const PredicateType = "https://in-toto.io/attestation/test-result/v0.1"

// Statement is the report as a statement in JSON, unsigned. Its subjects are the images
// that ran, by the digests in the report's metadata; its configuration is the intent, by the
// SHA-256 of its text. The result is PASSED if and only if the report is OK; what could not
// be told, or was not tried, is among the failed tests. Without a subject it is an error.
func Statement(r phase.Report, intentName string, intent []byte) ([]byte, error) {
	predicate, err := toStruct(result(r, intentName, intent))
	if err != nil {
		return nil, fmt.Errorf("attestation: %w", err)
	}
	s := &intoto.Statement{Type: intoto.StatementTypeUri, Subject: subjects(r), PredicateType: PredicateType, Predicate: predicate}
	if len(s.Subject) == 0 {
		return nil, errors.New("attestation: the report has no image's digest: only a run that got as far as the images says what it is about")
	}
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("attestation: %w", err)
	}
	text, err := protojson.MarshalOptions{Multiline: true}.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("attestation: %w", err)
	}
	return append(text, '\n'), nil
}

// subjects are the images of the metadata, by name.
func subjects(r phase.Report) []*intoto.ResourceDescriptor {
	var all []*intoto.ResourceDescriptor
	for _, key := range slices.Sorted(maps.Keys(r.Metadata)) {
		name, image := strings.CutPrefix(key, "image ")
		if hash, digest := strings.CutPrefix(r.Metadata[key], "sha256:"); image && digest {
			all = append(all, &intoto.ResourceDescriptor{Name: name, Digest: map[string]string{"sha256": hash}})
		}
	}
	return all
}

func result(r phase.Report, intentName string, intent []byte) *testresult.TestResult {
	sum := sha256.Sum256(intent)
	t := &testresult.TestResult{
		Result:        "FAILED",
		Configuration: []*intoto.ResourceDescriptor{{Name: intentName, Digest: map[string]string{"sha256": hex.EncodeToString(sum[:])}}},
	}
	if r.OK() {
		t.Result = "PASSED"
	}
	for _, p := range r.Phases {
		if p.Err != nil {
			t.FailedTests = append(t.FailedTests, p.Name)
		}
		for _, c := range p.Checks {
			if c.Status == phase.Passed {
				t.PassedTests = append(t.PassedTests, p.Name+": "+c.Name)
			} else {
				t.FailedTests = append(t.FailedTests, p.Name+": "+c.Name)
			}
		}
	}
	return t
}

func toStruct(t *testresult.TestResult) (*structpb.Struct, error) {
	text, err := protojson.Marshal(t)
	if err != nil {
		return nil, err
	}
	s := &structpb.Struct{}
	return s, protojson.Unmarshal(text, s)
}
