"""Persons that the model thinks of."""

import concurrent.futures
import threading

from tinytroupe import config_manager, logger
from tinytroupe.agent import TinyPerson
from tinytroupe.clients import client
from tinytroupe.control import transactional
from tinytroupe.factory.tiny_factory import TinyFactory
from tinytroupe.utils import extract_json

concurrent_agent_generataion_lock = threading.Lock()


class TinyPersonFactory(TinyFactory):
    """Makes persons for a context, one model call each, and one more for each one's short biography, which holds the lock."""

    all_unique_names = []

    def __init__(
        self,
        sampling_space_description=None,
        total_population_size=None,
        enforce_usage_of_all_dimensions=False,
        context=None,
        simulation_id=None,
    ):
        super().__init__(simulation_id)
        self.sampling_space_description = sampling_space_description
        self.population_size = total_population_size
        self.context_text = context
        self.generated_minibios = []
        self.generated_names = []

    @classmethod
    def _clear_factories(cls):
        TinyPersonFactory.all_unique_names = []

    def generate_person(self, agent_particularities=None, temperature=1.0, attempts=10, post_processing_func=None):
        with concurrent_agent_generataion_lock:
            number = len(TinyPersonFactory.all_unique_names) + 1
            TinyPersonFactory.all_unique_names.append(f"Person {number}")
        wanted = f"Full name: Person {number}\n{agent_particularities or ''}"
        messages = [
            {"role": "system", "content": "Describe a person as a JSON object."},
            {
                "role": "user",
                "content": f"{self.context_text}\n## Agent Particularities\n{wanted}\n## Generation Rules\nGive a name.",
            },
        ]
        for _ in range(attempts):
            reply = self._aux_model_call(messages=messages, temperature=temperature)
            spec = extract_json(reply["content"]) if reply else {}
            name = spec.get("name")
            if name and TinyPerson.get_agent_by_name(name) is None:
                break
        else:
            logger.error("No person came about in %d attempts.", attempts)
            return None
        with concurrent_agent_generataion_lock:
            person = TinyPerson(name)
            self._setup_agent(person, spec)
            if post_processing_func is not None:
                post_processing_func(person)
            self.generated_minibios.append(person.minibio())
            self.generated_names.append(name)
        return person

    @config_manager.config_defaults(parallelize="parallel_agent_generation")
    def generate_people(
        self,
        number_of_people=None,
        agent_particularities=None,
        temperature=1.0,
        attempts=10,
        post_processing_func=None,
        parallelize=None,
        verbose=False,
    ):
        number_of_people = number_of_people or self.population_size
        if number_of_people is None:
            raise ValueError("Say how many people there are to be.")
        make = self._generate_people_in_parallel if parallelize else self._generate_people_sequentially
        return make(
            number_of_people=number_of_people,
            agent_particularities=agent_particularities,
            temperature=temperature,
            attempts=attempts,
            post_processing_func=post_processing_func,
        )

    @transactional(parallel=True)
    def _generate_people_in_parallel(self, number_of_people, **wanted):
        with concurrent.futures.ThreadPoolExecutor() as executor:
            futures = [executor.submit(self.generate_person, **wanted) for _ in range(number_of_people)]
            made = [future.result() for future in concurrent.futures.as_completed(futures)]
        return [person for person in made if person is not None]

    @transactional()
    def _generate_people_sequentially(self, number_of_people, **wanted):
        made = [self.generate_person(**wanted) for _ in range(number_of_people)]
        return [person for person in made if person is not None]

    @transactional()
    def _aux_model_call(self, messages, temperature):
        return client().send_message(messages, temperature=temperature, response_format={"type": "json_object"})

    @transactional()
    def _setup_agent(self, agent, configuration):
        agent.include_persona_definitions(configuration)
